"""Fifty starts on one charger, through two gateways and three session workers: one wins, all are told."""

import asyncio
from collections import Counter

import asyncpg
import httpx

from ops.local_stack.processes import Processes
from tests.patience import PATIENT, PATIENT_CLIENT_S
from tests.servers import House

STARTS = 50


async def test_one_of_fifty_concurrent_starts_is_in_progress(processes: Processes, house: House) -> None:
    """One IN_PROGRESS, 49 refusals, 50 outcomes."""
    gateways = [await processes.start("gateway", port=None, **PATIENT) for _ in range(2)]
    for _ in range(3):
        await processes.start("session_worker")
    async with httpx.AsyncClient(timeout=PATIENT_CLIENT_S, trust_env=False) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    f"{gateways[number % 2].url}/api/v1/session/start",
                    json={"chargerId": "CHARGER-001"},
                    headers={"Prefer": "wait=30"},
                )
                for number in range(STARTS)
            )
        )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: STARTS - 1}
    assert {answer.json()["reason"] for answer in answers if answer.status_code == 409} == {"CHARGER_BUSY"}
    database = await asyncpg.connect(house.database_url)
    try:
        outcomes = await database.fetch("SELECT outcome, reason, count(*) FROM inbox GROUP BY outcome, reason")
        rows = await database.fetch("SELECT status, count(*) FROM charging_sessions GROUP BY status")
    finally:
        await database.close()
    assert {tuple(row) for row in outcomes} == {("APPLIED", None, 1), ("REFUSED", "CHARGER_BUSY", STARTS - 1)}
    assert {tuple(row) for row in rows} == {("IN_PROGRESS", 1), ("CANCELLED", STARTS - 1)}

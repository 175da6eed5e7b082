"""`Prefer: wait=N` with the real session worker: the answer of each call is the outcome."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from ops.local_stack.processes import Name, Process, Processes
from tests.unit.gateway.test_bad_input import problem

WAIT = {"Prefer": "wait=20"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(processes: Processes) -> Process:
    """A gateway and a session worker; nobody delivers callbacks."""
    worker = processes.launch(Name.SESSION_WORKER)
    started = await processes.start(Name.GATEWAY)
    await worker.ready()
    return started


@pytest.fixture
async def client(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False, headers=WAIT) as opened:
        yield opened


async def start(client: httpx.AsyncClient, charger: str, **headers: str) -> httpx.Response:
    return await client.post("/api/v1/session/start", json={"chargerId": charger}, headers=headers)


def shown(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The outcome, which says that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["preference-applied"] == "wait=20"
    content: dict[str, Any] = answer.json()
    return content


async def test_a_session_from_start_to_record(client: httpx.AsyncClient) -> None:
    """Started, metered, stopped with a price, exported; every answer is the session as it then is."""
    tariff = shown(await client.put("/api/v1/tariffs/default", json={"currency": "EUR", "perKwh": "0.40"}))
    assert (tariff["name"], Decimal(tariff["perKwh"])) == ("default", Decimal("0.40"))
    session = shown(await start(client, "C-1"))
    assert (session["status"], session["currency"]) == ("IN_PROGRESS", "EUR")
    session_id = session["sessionId"]
    for register in ("1000", "11000"):
        metered = shown(
            await client.post("/api/v1/session/meter-values", json={"sessionId": session_id, "meterWh": register})
        )
    assert Decimal(metered["finalCost"]) == Decimal("4.00")
    stopped = shown(await client.post("/api/v1/session/stop", json={"sessionId": session_id}))
    assert (stopped["status"], stopped["finalCost"]) == ("COMPLETED", "4.00")
    read = (await client.get(f"/api/v1/session/{session_id}")).json()
    # Its payment goes on by itself: a link is made.
    moving = {"payment": None, "updatedAt": None}
    assert read | moving == stopped | moving
    assert read["payment"]["amount"] == "4.00"
    cdr = (await client.get(f"/api/v1/session/{session_id}/cdr")).json()["cdr"]
    assert (cdr["total_cost"]["incl_vat"], cdr["total_energy"]) == (4.0, 10.0)
    again = await client.post("/api/v1/session/stop", json={"sessionId": session_id})
    assert problem(again, 409, "refused")["reason"] == "ALREADY_ENDED"


async def test_a_busy_charger_is_a_409(client: httpx.AsyncClient) -> None:
    shown(await start(client, "C-2"))
    refused = await start(client, "C-2")
    assert problem(refused, 409, "refused")["reason"] == "CHARGER_BUSY"
    assert shown(refused, 409)["instance"] == "/api/v1/session/start"


async def test_a_request_is_answered_with_its_decision(client: httpx.AsyncClient) -> None:
    """Allowed, then not allowed: both are results."""
    body = {"stationId": "S-1", "driverId": "D-1", "callbackUrl": "https://subscriber.example/"}
    allowed = shown(await client.post("/api/charging-session-requests", json=body))
    denied = shown(await client.post("/api/charging-session-requests", json=body))
    assert (allowed["decision"], allowed["sessionId"]) == ("allowed", allowed["requestId"])
    assert (denied["decision"], denied["reason"]) == ("not_allowed", "CONCURRENT_SESSION")


async def test_a_key_used_twice_with_one_body_is_one_session_and_with_another_a_conflict(
    client: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first, second = shown(await start(client, "C-3", **key)), shown(await start(client, "C-3", **key))
    assert first["sessionId"] == second["sessionId"]
    assert problem(await start(client, "C-4", **key), 409, "refused")["reason"] == "IDEMPOTENCY_CONFLICT"


async def test_drivers_and_stations_come_and_go(client: httpx.AsyncClient) -> None:
    """PUT shows what is kept, DELETE what is gone."""
    driver = shown(await client.put("/api/v1/drivers/D%2F9", json={"status": "ALLOWED", "stations": ["S"]}))
    assert (await client.get("/api/v1/drivers/D%2F9")).json() == driver
    assert shown(await client.put("/api/v1/stations/S", json={"open": True}))["open"] is True
    for path, body in (("drivers/D%2F9", {"driverId": "D/9"}), ("stations/S", {"stationId": "S"})):
        assert shown(await client.delete(f"/api/v1/{path}")) == body | {"deleted": True}
        problem(await client.get(f"/api/v1/{path}"), 404, "not-found")


async def test_a_stop_that_nothing_was_started_for_is_acknowledged_and_no_more(client: httpx.AsyncClient) -> None:
    """It is parked: its start may still come."""
    headers = {"Prefer": "wait=1"}
    answer = await client.post("/api/v1/session/stop", json={"sessionId": str(uuid4())}, headers=headers)
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers

"""Waiting for an outcome: one query for all, bounded, and never an error."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.database import Database
from gateway.outcomes import End, Outcomes
from gateway.resources import Row
from shared.commands import canonical_body, parse_command
from shared.errors import Unavailable
from shared.ids import conflict_id
from tests.unit.gateway.fakes import BODIES, NO_DATABASE, PATHS, FakePublisher, opened

HASH = b"ours"


class FakeDatabase(Database):
    """An inbox in memory that counts how often it is asked; `fault` is raised instead of an answer."""

    def __init__(self) -> None:
        super().__init__(NO_DATABASE)
        self.inbox: dict[UUID, Row] = {}
        self.asked = 0
        self.fault: Exception | None = None

    def put(self, message: UUID, *, body: bytes = HASH, outcome: str = "APPLIED", reason: str | None = None) -> None:
        self.inbox[message] = {"messageId": message, "bodyHash": body, "outcome": outcome, "reason": reason}

    async def read(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return [row for key, row in self.inbox.items() if key in parameters["ids"] and row["outcome"] != "PARKED"]


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


async def waiting(outcomes: Outcomes, message: UUID, wait_s: float = 60) -> "asyncio.Task[End | None]":
    """Somebody who waits by now."""
    task = asyncio.create_task(outcomes.end_of(message, HASH, wait_s=wait_s))
    await asyncio.sleep(0)
    return task


async def test_many_who_wait_cost_one_query(database: FakeDatabase) -> None:
    """Each gets its own end; who is not applied yet goes on waiting."""
    outcomes = Outcomes(database)
    ids = [uuid4() for _ in range(500)]
    tasks = [await waiting(outcomes, message) for message in ids]
    for message in ids[1:]:
        database.put(message)
    assert await outcomes.run_once() == 499
    assert database.asked == 1
    assert set(await asyncio.gather(*tasks[1:])) == {End(is_applied=True)}
    assert not tasks[0].done()
    database.put(ids[0], outcome="REFUSED", reason="CHARGER_BUSY")
    await outcomes.run_once()
    assert await tasks[0] == End(is_applied=False, reason="CHARGER_BUSY")


async def test_nobody_asks_while_nobody_waits(database: FakeDatabase) -> None:
    """The loop sleeps on; the first who waits wakes it, and the last who leaves sends it to sleep."""
    outcomes = Outcomes(database, tick_s=0.001)
    running = asyncio.create_task(outcomes.run())
    await asyncio.sleep(0.02)
    assert database.asked == 0
    message = uuid4()
    database.put(message)
    assert await outcomes.end_of(message, HASH, wait_s=60) == End(is_applied=True)
    asked = database.asked
    await asyncio.sleep(0.02)
    assert database.asked == asked == 1
    running.cancel()


async def test_a_parked_command_has_no_end_yet(database: FakeDatabase) -> None:
    outcomes = Outcomes(database)
    message = uuid4()
    database.put(message, outcome="PARKED")
    task = await waiting(outcomes, message, 0.01)
    assert await outcomes.run_once() == 0
    assert await task is None


async def test_another_bodys_end_is_not_ours(database: FakeDatabase) -> None:
    """The same id with another body ends as a conflict, under the id that is derived from both."""
    outcomes = Outcomes(database)
    message = uuid4()
    database.put(message, body=b"theirs")
    task = await waiting(outcomes, message)
    assert await outcomes.run_once() == 0
    database.put(conflict_id(message, HASH), outcome="REFUSED", reason="IDEMPOTENCY_CONFLICT")
    await outcomes.run_once()
    assert await task == End(is_applied=False, reason="IDEMPOTENCY_CONFLICT")


async def test_two_may_wait_for_one_message(database: FakeDatabase) -> None:
    """A retry with the same key beside the first try."""
    outcomes = Outcomes(database)
    message = uuid4()
    tasks = [await waiting(outcomes, message) for _ in range(2)]
    database.put(message)
    await outcomes.run_once()
    assert await asyncio.gather(*tasks) == [End(is_applied=True)] * 2


async def test_beyond_the_limit_nobody_waits(database: FakeDatabase) -> None:
    """At once, so that no flood of waiters holds connections; a place that is left is given again."""
    outcomes = Outcomes(database, most=1)
    task = await waiting(outcomes, uuid4())
    assert await outcomes.end_of(uuid4(), HASH, wait_s=60) is None
    task.cancel()
    await asyncio.wait([task])
    message = uuid4()
    database.put(message)
    task = await waiting(outcomes, message)
    await outcomes.run_once()
    assert await task == End(is_applied=True)


async def test_a_drain_sends_everybody_away(database: FakeDatabase) -> None:
    """Those who wait and those who still come."""
    outcomes = Outcomes(database)
    task = await waiting(outcomes, uuid4(), 60)
    outcomes.release()
    assert await task is None
    assert await outcomes.end_of(uuid4(), HASH, wait_s=60) is None


async def test_an_outage_is_outlived(database: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on; who still waits when the database is back gets the end."""
    monkeypatch.setattr("gateway.outcomes.PAUSE_S", 0.001)
    outcomes = Outcomes(database, tick_s=0.001)
    running = asyncio.create_task(outcomes.run())
    database.fault = Unavailable("down")
    message = uuid4()
    database.put(message)
    task = await waiting(outcomes, message)
    while database.asked < 3:
        await asyncio.sleep(0.001)
    database.fault = None
    assert await task == End(is_applied=True)
    running.cancel()


async def test_without_an_end_the_plain_acknowledgement_comes_and_claims_nothing() -> None:
    """Byte for byte what comes without the preference, after the time; here nobody ever looks."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"], headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert list(answer.json()) == ["success", "sessionId", "chargerId", "message"]
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("name", sorted(PATHS))
async def test_the_worker_reads_the_same_body_hash_from_the_message(name: str) -> None:
    """Otherwise nobody's end would ever be recognised."""
    example = {"energyKwh": "23.40", "endedAt": "2026-05-04T14:00:00+02:00", "metadata": {"a": [1, None, {"b": None}]}}
    publisher = FakePublisher()
    async with opened(publisher) as client:
        await client.post(PATHS[name], json=BODIES[name] | example)
    message = publisher.published[0].message
    assert canonical_body(parse_command(message.body, str(message.type))) == message.body

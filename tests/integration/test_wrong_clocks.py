"""Workers whose own clocks are wrong by an hour, in either direction: leases, due times and signatures are right.

And workers that have not been told the time yet.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from callback_worker.delivery import LEASE_MARGIN_S
from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Callback, Receiver
from session_worker.decide import PARK_FOR
from shared.topology import CALLBACK_EVENTS, SESSION_COMMANDS
from tests.callbacks import CallbackLog, EventSource, StartWorker, event, said
from tests.proxy import Proxy
from tests.servers import House
from tests.wire import Wire, eventually
from tests.wrong_clock import MakeClock

STEPS = ("+1h", "-1h")
HOUR_S = 3600
# Longer than any attempt here is in hand.
TIMEOUT_S = 10
# A worker without anything in hand; far below what waiting for the database would take.
IDLE_DRAIN_S = 10.0


async def test_two_callback_workers_two_hours_apart_send_nothing_twice(
    wrong_clock: MakeClock, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """G6: nobody died, so no attempt is ambiguous. First attempts, and retries that either may claim."""
    workers = [await start_worker(**wrong_clock(step).environment) for step in STEPS]
    # Slow enough that the other one, who polls each second, finds it in hand.
    receiver.answer = fails_once(receiver, "retried", delay_s=1.2)
    sent = [event(receiver.url("retried" if number % 2 else "taken")) for number in range(30)]
    await source.publish(*sent)
    await log.all_delivered([each.event_id for each in sent], timeout_s=20)
    outcomes = Counter([outcome for each in sent for outcome in await log.outcomes(each.event_id)])
    assert outcomes == {"delivered": 30, "server_error": 15}
    came = Counter(UUID(callback.id) for callback in receiver.callbacks)
    assert came == {each.event_id: 1 + number % 2 for number, each in enumerate(sent)}
    for born in [await log.delivery(each.event_id) for each in sent]:
        assert born is not None
        assert int(born["createdAt"].timestamp() * 1000) == born["id"].int >> 80, "lists are in the order of ids"
    # Subscribers refuse a signature that is five minutes old or early.
    assert all(callback.verified for callback in receiver.callbacks)
    for worker, step in zip(workers, STEPS, strict=True):
        assert abs(said_ahead_s(worker) - signed(step)) < 60


async def test_a_lease_of_a_worker_whose_clock_is_set_back_still_ends_when_it_dies(
    wrong_clock: MakeClock, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """By the database's time, which a worker that is an hour ahead goes by as well."""
    receiver.answer = lambda _: Answer(delay_s=8 if not receiver.callbacks else 0)
    clock = wrong_clock("+0")
    dying = await start_worker(CALLBACK_TIMEOUT_S=str(TIMEOUT_S), **clock.environment)
    clock.set("-1h")
    sent = event(receiver.url())
    await source.publish(sent)
    await log.opened(sent.event_id)
    before = await log.delivery(sent.event_id)
    await dying.kill()
    assert before is not None
    assert timedelta(0) < before["leasedUntil"] - await log.now() < timedelta(seconds=TIMEOUT_S + LEASE_MARGIN_S)
    await log.end_lease(sent.event_id)
    await start_worker(**wrong_clock("+1h").environment)
    await log.ended(sent.event_id)
    assert await log.outcomes(sent.event_id) == ["ambiguous", "delivered"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_session_begins_when_it_begins_whatever_its_workers_clock_says(
    step: str, wrong_clock: MakeClock, processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """It is paid for by the hour; what is parked is so for a quarter of an hour."""
    worker = await processes.start("session_worker", port=None, **wrong_clock(step).environment)
    session_id = await wire.publish("session.start.v1", {"chargerId": f"C{step}"})
    early_id = await wire.publish("session.stop.v1", {"sessionId": str(uuid4())})
    await wire.event(lambda data: data["sessionId"] == session_id)
    row = await database.fetchrow("SELECT *, now() AS at FROM charging_sessions WHERE id = $1", UUID(session_id))
    assert row is not None
    for column in ("startedAt", "createdAt", "updatedAt"):
        assert abs(row["at"] - row[column]) < timedelta(seconds=30), column

    async def parked_for() -> timedelta | None:
        query = 'SELECT "expiresAt" - now() FROM parked_commands WHERE "messageId" = $1'
        found: timedelta | None = await database.fetchval(query, UUID(early_id))
        return found

    assert PARK_FOR - timedelta(seconds=30) < await eventually(parked_for) <= PARK_FOR
    assert abs(said_ahead_s(worker) - signed(step)) < 60
    assert await worker.stop() == 0


@pytest.mark.parametrize("is_told", [True, False], ids=["connections refused", "nothing passes"])
@pytest.mark.parametrize("name", ["session_worker", "callback_worker"])
async def test_a_worker_that_starts_in_an_outage_waits_for_the_time_and_leaves_when_asked_to(
    name: str, is_told: bool, house: House, processes: Processes, source: EventSource, receiver: Receiver, wire: Wire
) -> None:
    """It takes nothing from the queue, which others could do. All is done by whoever is told the time."""
    sent, charger = event(receiver.url()), f"C-{uuid4()}"
    async with Proxy(house.database_url) as proxy:
        proxy.cut() if is_told else proxy.freeze()
        leaving = processes.launch(name, DATABASE_URL=proxy.url)
        await said(leaving, "process_started", timeout_s=30)
        await source.publish(sent)
        session_id = await wire.publish("session.start.v1", {"chargerId": charger})
        await says_why(leaving)
        began = time.monotonic()
        assert await leaving.stop() == 0, leaving.log_tail()
        assert time.monotonic() - began < IDLE_DRAIN_S
        staying = processes.launch(name, DATABASE_URL=proxy.url)
        await says_why(staying)
        assert await wire.depth(SESSION_COMMANDS if name == "session_worker" else CALLBACK_EVENTS) > 0
        assert not receiver.callbacks
        proxy.restore()
        if name == "callback_worker":
            await receiver.wait_for(lambda callback: callback.id == str(sent.event_id), timeout_s=30)
        else:
            await wire.event(lambda data: data["sessionId"] == session_id, timeout_s=30)
        assert await staying.stop() == 0


async def says_why(process: Process) -> None:
    """Wait until it says that it waits."""

    async def look() -> bool:
        return any(words in process.log.read_text() for words in ("sweep_failed", '"what": "upkeep"'))

    await eventually(look, timeout_s=20)


def fails_once(receiver: Receiver, path: str, *, delay_s: float) -> Callable[[Callback], Answer]:
    """Each event on this path has its first attempt refused; every answer takes its time."""

    def answer(callback: Callback) -> Answer:
        is_first = all(each.id != callback.id for each in receiver.callbacks)
        return Answer(503 if is_first and callback.path == f"/{path}" else 204, delay_s=delay_s)

    return answer


def signed(step: str) -> float:
    return -HOUR_S if step.startswith("-") else HOUR_S


def said_ahead_s(worker: Process) -> float:
    """By how much it says that its own clock is ahead: proof that it was wrong."""
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    [said] = [line["ahead_s"] for line in lines if line["event"] == "own_clock_differs"]
    return float(said)

"""Workers that are killed, or stopped for longer than their leases, under load; counted from the receiver's own record.

`KILLS=50` kills that often instead of ten times; `SEED` repeats a run, whose own seed is printed.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from callback_worker.delivery import LEASE_MARGIN_S
from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Receiver
from tests.callbacks import CallbackLog, EventSource, StartWorker, event
from tests.servers import House
from tests.wire import eventually

KILLS = int(os.environ.get("KILLS", "10"))
SEED = int(os.environ.get("SEED", random.randrange(10**6)))
# Nobody's answer is so late, however busy the machine: a timeout repeats a callback and leaves nothing ambiguous.
TIMEOUT_S = 4.0
# From a kill to the claim that finds its leases over.
ABANDONED_S = TIMEOUT_S + LEASE_MARGIN_S + 2.0
EVENTS_AT_ONCE, EVERY_S = 20, 0.2
# A slow answer leaves more attempts in hand at any moment, so that a kill hits some.
SLOWEST_ANSWER_S = 0.3


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("DELETE FROM callback_deliveries")
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_worker_stopped_for_longer_than_its_leases_writes_no_result_and_loses_no_delivery(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """Fencing, by time alone: another worker took over all it had in hand, and what it finds out afterwards is void."""
    receiver.answer = lambda _: Answer(204, delay_s=SLOWEST_ANSWER_S)
    stopped = await start_worker(CALLBACK_TIMEOUT_S=str(TIMEOUT_S))
    sent = [event(receiver.url()) for _ in range(60)]
    await source.publish(*sent)
    await receiver.wait_for(lambda _: True, count=30)
    stopped.signal(signal.SIGSTOP)
    await eventually(lambda: nothing_runs(database))
    in_hand = await database.fetchval("SELECT count(*) FROM callback_attempts WHERE outcome = 'open'")
    await start_worker(CALLBACK_TIMEOUT_S=str(TIMEOUT_S))
    await log.all_delivered([each.event_id for each in sent], timeout_s=ABANDONED_S + 15)
    ambiguous = await ambiguous_by_event(database)
    assert ambiguous.total() == in_hand > 0
    before = await everything(database)
    stopped.signal(signal.SIGCONT)
    await eventually(lambda: said_too_late(stopped), timeout_s=20)
    await stopped.ready()
    assert await stopped.stop() == 0
    assert await everything(database) == before
    counts = Counter(UUID(callback.id) for callback in receiver.callbacks)
    assert counts.keys() == {each.event_id for each in sent}
    assert all(counts[each] - 1 <= ambiguous[each] for each in counts)


async def nothing_runs(database: asyncpg.Connection) -> bool:
    """Whether what a worker had said to the database before it was stopped is done."""
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name LIKE 'callback_worker%' AND state = 'active' AND datname = current_database()"""
    return int(await database.fetchval(query)) == 0


async def test_no_kill_at_any_moment_loses_an_event_or_sends_one_twice_without_saying_so(
    processes: Processes, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """Every event is delivered at least once; there are no more duplicates than attempts marked as ambiguous."""
    chance = random.Random(SEED)
    receiver.answer = lambda _: Answer(204, delay_s=chance.random() * SLOWEST_ANSWER_S)
    sent: list[UUID] = []
    load = asyncio.create_task(publish_steadily(source, receiver, sent))
    workers = [launch(processes), launch(processes)]
    for _ in range(KILLS):
        target = len(receiver.callbacks) + chance.randint(1, 100)
        await eventually(lambda wanted=target: has_received(receiver, wanted), timeout_s=30)  # type: ignore[misc]
        await asyncio.sleep(chance.random() * 0.05)  # a moment of no meaning
        await workers.pop(chance.randrange(2)).kill()
        workers.append(launch(processes))
    load.cancel()
    await asyncio.wait([load])
    await log.all_delivered(sent, timeout_s=ABANDONED_S + 30)
    for worker in workers:
        assert await worker.stop() == 0
    counts = Counter(UUID(callback.id) for callback in receiver.callbacks)
    ambiguous = await ambiguous_by_event(database)
    said = f"{len(sent)} events, {counts.total()} callbacks, {ambiguous.total()} attempts ambiguous"
    print(f"seed {SEED}, {KILLS} kills: {said}")  # noqa: T201 - the seed repeats the run
    assert not set(sent) - counts.keys()
    assert all(counts[each] - 1 <= ambiguous[each] for each in counts)
    assert not await database.fetchval("SELECT count(*) FROM callback_attempts WHERE outcome = 'open'")


def launch(processes: Processes) -> Process:
    """A worker that is not waited for."""
    return processes.launch(
        "callback_worker", CALLBACK_TIMEOUT_S=str(TIMEOUT_S), CALLBACK_RETRY_SCHEDULE_S="0,0.5,1,2,4"
    )


async def publish_steadily(source: EventSource, receiver: Receiver, sent: list[UUID]) -> None:
    """Publish until cancelled; note what the broker has confirmed."""
    while True:
        batch = [event(receiver.url()) for _ in range(EVENTS_AT_ONCE)]
        publishing = asyncio.ensure_future(source.publish(*batch))
        try:
            await asyncio.shield(publishing)
        finally:
            await publishing
            sent += [each.event_id for each in batch]
        await asyncio.sleep(EVERY_S)


async def has_received(receiver: Receiver, count: int) -> bool:
    return len(receiver.callbacks) >= count


async def said_too_late(process: Process) -> bool:
    return "result_came_too_late" in process.log.read_text()


async def ambiguous_by_event(database: asyncpg.Connection) -> Counter[UUID]:
    """How many attempts of each event's delivery say that their worker did not live to tell."""
    rows = await database.fetch(
        """SELECT d."eventId" AS id, count(*) FROM callback_attempts a
        JOIN callback_deliveries d ON d.id = a."callbackId" WHERE a.outcome = 'ambiguous' GROUP BY 1"""
    )
    return Counter({row["id"]: row["count"] for row in rows})


async def everything(database: asyncpg.Connection) -> list[asyncpg.Record]:
    """All rows of both tables."""
    deliveries = await database.fetch("SELECT * FROM callback_deliveries ORDER BY id")
    return [*deliveries, *await database.fetch('SELECT * FROM callback_attempts ORDER BY "callbackId", number')]

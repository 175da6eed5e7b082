"""A database or broker that goes away or hangs, and workers that drain meanwhile.

Nothing is lost, nothing is sent twice, nothing is set aside.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from ops.local_stack import Server, Servers
from ops.local_stack.processes import READY_TIMEOUT_S, Processes
from ops.receiver import Answer, Receiver
from shared.events import Event
from shared.process import DRAIN_S
from shared.topology import CALLBACK_EVENTS, dead_letter_queue
from tests.callbacks import (
    NOT_BY_ITSELF,
    CallbackLog,
    EventSource,
    StartWorker,
    event,
    first_takes,
    open_log,
    said,
)
from tests.proxy import Proxy
from tests.servers import House
from tests.wire import eventually, open_wire

# An attempt is in hand for so long: an outage that is ordered meanwhile begins before there is a result.
LONG_S = 4.0
# Its deadline is far off, also for a test that is kept waiting.
PATIENT_S = "20"


@pytest.fixture
async def administrator(house: House) -> AsyncIterator[asyncpg.Connection]:
    """A connection that no outage of the house's database ends."""
    connection = await asyncpg.connect(urlsplit(house.database_url)._replace(path="/postgres").geturl())
    yield connection
    await connection.close()


async def test_a_database_outage_loses_nothing_and_sets_nothing_aside(
    house: House,
    administrator: asyncpg.Connection,
    start_worker: StartWorker,
    source: EventSource,
    receiver: Receiver,
) -> None:
    """Events wait unacknowledged, results wait in the worker, and the process stays up."""
    receiver.answer = first_takes(LONG_S, receiver)
    worker = await start_worker(CALLBACK_TIMEOUT_S=PATIENT_S)
    in_hand, later = event(receiver.url("in-hand")), [event(receiver.url()) for _ in range(300)]
    await source.publish(in_hand)
    await receiver.wait_for(lambda callback: callback.path == "/in-hand")
    async with outage(house, administrator):
        await source.publish(*later)

        async def both_wait() -> bool:
            tail = worker.log_tail()
            return '"what": "results"' in tail and '"what": "events"' in tail

        await eventually(both_wait, timeout_s=20)
        assert len(receiver.callbacks) == 1
    async with open_log(house.database_url) as log_after:
        await log_after.all_delivered([in_hand.event_id, *(each.event_id for each in later)], timeout_s=20)
        assert await log_after.outcomes(in_hand.event_id) == ["delivered"]
    assert len({callback.id for callback in receiver.callbacks}) == len(receiver.callbacks) == 301
    assert worker.exit_code is None
    async with open_wire(house.amqp_url) as wire:
        assert await wire.depth(dead_letter_queue(CALLBACK_EVENTS)) == 0


async def test_after_an_outage_longer_than_a_lease_no_worker_takes_over_before_results_are_written(
    house: House,
    administrator: asyncpg.Connection,
    processes: Processes,
    start_worker: StartWorker,
    source: EventSource,
    receiver: Receiver,
) -> None:
    """G6: no crash, so no duplicate. One worker holds a result while another is the first to reach the database."""
    receiver.answer = first_takes(LONG_S, receiver)
    sent, other = event(receiver.url("sent")), event(receiver.url("other"))
    holder = await start_worker(CALLBACK_TIMEOUT_S=PATIENT_S)
    await source.publish(sent)
    await receiver.wait_for(lambda callback: callback.path == "/sent")
    await lease_for(house, sent.event_id, 1.0)
    async with outage(house, administrator):
        claimer = processes.launch("callback_worker")
        await said(holder, '"what": "results"', timeout_s=20)
        await said(claimer, '"what": "upkeep"', timeout_s=READY_TIMEOUT_S)
        await asyncio.sleep(1.0)  # the lease is a time, and it must be over
        holder.signal(signal.SIGSTOP)
    await owe(house, other)
    await receiver.wait_for(lambda callback: callback.path == "/other")
    async with open_log(house.database_url) as after:
        await after.ended(other.event_id)
        assert await after.outcomes(sent.event_id) == ["open"]
        holder.signal(signal.SIGCONT)
        await after.ended(sent.event_id)
        assert await after.outcomes(sent.event_id) == ["delivered"]
    assert len(receiver.callbacks) == 2
    await claimer.kill()


@pytest.mark.parametrize("timeout_s", ["15", "60"])
async def test_sigterm_while_postgres_is_down_exits_with_0_and_leaves_events_unacknowledged(
    timeout_s: str, servers: Servers, house: House, start_worker: StartWorker, source: EventSource, receiver: Receiver
) -> None:
    """Results that cannot be written are left to the leases; events come again, within the contract's 25 s."""
    receiver.answer = first_takes(0.5 if timeout_s == "15" else DRAIN_S - 6, receiver)
    worker = await start_worker(CALLBACK_TIMEOUT_S=timeout_s)
    in_hand, later = event(receiver.url("in-hand")), [event(receiver.url()) for _ in range(20)]
    await source.publish(in_hand)
    await receiver.wait_for(lambda callback: callback.path == "/in-hand")
    await asyncio.to_thread(servers.stop, Server.POSTGRES)
    try:
        await source.publish(*later)
        await said(worker, '"what": "events"')
        began = time.monotonic()
        assert await worker.stop() == 0, worker.log_tail()
        assert time.monotonic() - began < DRAIN_S
    finally:
        await asyncio.to_thread(servers.start, Server.POSTGRES)
    async with open_wire(house.amqp_url) as wire:

        async def all_wait_again() -> bool:
            return await wire.depth(CALLBACK_EVENTS) == len(later)

        await eventually(all_wait_again)
    await start_worker()
    async with open_log(house.database_url) as after:
        await after.all_delivered([each.event_id for each in later], timeout_s=30)
    assert len(receiver.callbacks) == 1 + len(later)


async def test_sigterm_while_postgres_hangs_exits_with_0(
    house: House, start_worker: StartWorker, source: EventSource, receiver: Receiver
) -> None:
    """Nothing passes and nobody is told: no wait is without an end."""
    receiver.answer = lambda _: Answer(delay_s=0.5)
    async with Proxy(house.database_url) as proxy:
        worker = await start_worker(DATABASE_URL=proxy.url)
        await source.publish(event(receiver.url("in-hand")))
        await receiver.wait_for(lambda callback: callback.path == "/in-hand")
        proxy.freeze()
        await source.publish(*(event(receiver.url()) for _ in range(20)))
        began = time.monotonic()
        assert await worker.stop() == 0, worker.log_tail()
        assert time.monotonic() - began < DRAIN_S


async def test_due_retries_go_on_while_the_broker_is_away(
    processes: Processes, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """They live in Postgres."""
    receiver.answer = lambda _: Answer(500)
    sent = event(receiver.url())
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF)
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await worker.stop()
    await log.make_due(sent.event_id)
    receiver.answer = lambda _: Answer(200)
    # Nothing listens on port 9: the worker is not ready, so it is not waited for.
    blind = processes.launch("callback_worker", AMQP_URL="amqp://guest:guest@127.0.0.1:9/")
    assert (await log.ended(sent.event_id, timeout_s=READY_TIMEOUT_S))["state"] == "DELIVERED"
    assert blind.exit_code is None
    assert await blind.stop() == 0


@asynccontextmanager
async def outage(house: House, administrator: asyncpg.Connection) -> AsyncIterator[None]:
    """Nobody may connect to the house's database, and whoever was connected is thrown out."""
    name = urlsplit(house.database_url).path.removeprefix("/")
    try:
        await administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


async def lease_for(house: House, event_id: UUID, seconds: float) -> None:
    """Let the lease end so soon."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute(
        """UPDATE callback_deliveries SET "leasedUntil" = now() + $2 * interval '1 second' WHERE "eventId" = $1""",
        event_id,
        seconds,
    )
    await connection.close()


async def owe(house: House, owed: Event) -> None:
    """Make a due delivery that any worker may claim, with no event message for it."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute(
        """INSERT INTO callback_deliveries (id, "eventId", type, url, host, destination, body, state, "attemptCount",
            "nextAttemptAt", "expiresAt", "createdAt")
        VALUES ($1, $2, 'x', $3, '127.0.0.1', $4, $5, 'PENDING', 0, now(), now() + interval '1 day', now())""",
        uuid4(),
        owed.event_id,
        owed.callback_url,
        urlsplit(owed.callback_url).netloc,
        owed.body(),
    )
    await connection.close()

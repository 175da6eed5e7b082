"""Workers that are killed, stopped and drained, and a database that goes away.

Nothing is lost, and nothing is sent twice without the log saying so.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Callback, Receiver
from shared.topology import CALLBACK_EVENTS, dead_letter_queue
from tests.callbacks import CallbackLog, EventSource, event, open_log, open_source
from tests.servers import House
from tests.wire import eventually, open_wire

StartWorker = Callable[..., Awaitable[Process]]
LONG_S = 4.0


@pytest.fixture
async def source(house: House) -> AsyncIterator[EventSource]:
    async with open_source(house.amqp_url) as opened:
        yield opened


@pytest.fixture
async def log(house: House) -> AsyncIterator[CallbackLog]:
    async with open_log(house.database_url) as opened:
        yield opened


@pytest.fixture
async def start_worker(processes: Processes) -> AsyncIterator[StartWorker]:
    """Starts workers of this test's own; they are killed at its end, so that no other test meets them."""
    started: list[Process] = []

    async def start(**environment: str) -> Process:
        defaults: dict[str, Any] = {"CALLBACK_RETRY_SCHEDULE_S": "0,0.2,0.2,0.2", "CALLBACK_TIMEOUT_S": "8"}
        started.append(await processes.start("callback_worker", **(defaults | environment)))
        return started[-1]

    yield start
    for process in started:
        await process.kill()


def first_takes(seconds: float, receiver: Receiver) -> Callable[[Callback], Answer]:
    """The first callback is answered late, all others at once."""
    return lambda _: Answer(delay_s=0 if receiver.callbacks else seconds)


async def test_a_worker_killed_in_mid_attempt_leaves_it_ambiguous_and_another_repeats_it(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """G6: twice only because of a crash, with the same webhook-id, and the log shows which attempt it was."""
    receiver.answer = first_takes(LONG_S, receiver)
    sent = event(receiver.url())
    worker = await start_worker()
    await source.publish(sent)
    await receiver.wait_for(lambda callback: callback.id == str(sent.event_id))
    await worker.kill()
    assert await log.outcomes(sent.event_id) == ["open"]
    await log.end_lease(sent.event_id)
    await start_worker()
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["attemptCount"]) == ("DELIVERED", 2)
    assert await log.outcomes(sent.event_id) == ["ambiguous", "delivered"]
    assert [callback.id for callback in receiver.callbacks] == [str(sent.event_id)] * 2
    assert all(callback.verified for callback in receiver.callbacks)


async def test_a_lease_that_has_not_ended_keeps_others_off(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """A second worker claims what is due, and not what the first has in hand."""
    receiver.answer = first_takes(0.4, receiver)
    slow, other = event(receiver.url()), event(receiver.url())
    await start_worker()
    await start_worker()
    await source.publish(slow)
    await log.opened(slow.event_id)
    await source.publish(other)
    await log.ended(other.event_id)
    await log.ended(slow.event_id)
    assert await log.outcomes(slow.event_id) == ["delivered"]
    assert len(receiver.callbacks) == 2


async def test_a_worker_stopped_for_longer_than_its_lease_cannot_write_its_result(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """Fencing: the attempt that another worker took over stays ambiguous, whatever its first worker comes to know."""
    receiver.answer = lambda _: Answer(200, delay_s=0.3) if not receiver.callbacks else Answer(503)
    sent = event(receiver.url())
    stopped = await start_worker()
    await source.publish(sent)
    await receiver.wait_for(lambda callback: callback.id == str(sent.event_id))
    stopped.signal(signal.SIGSTOP)
    await log.end_lease(sent.event_id)
    await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,60,60")
    await receiver.wait_for(lambda callback: callback.id == str(sent.event_id), count=2)

    async def taken_over() -> bool:
        return await log.outcomes(sent.event_id) == ["ambiguous", "server_error"]

    await eventually(taken_over)
    before = await log.delivery(sent.event_id)
    stopped.signal(signal.SIGCONT)

    async def noticed() -> bool:
        return "result_came_too_late" in stopped.log_tail()

    await eventually(noticed)
    assert await log.outcomes(sent.event_id) == ["ambiguous", "server_error"]
    assert await log.delivery(sent.event_id) == before
    assert before is not None
    assert before["state"] == "PENDING"


async def test_sigterm_drains_finishes_the_attempt_in_hand_and_exits_with_0(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """Its result is written; what has not begun is left to others."""
    receiver.answer = lambda _: Answer(delay_s=0.4)
    worker = await start_worker(CALLBACK_CONCURRENCY="2")
    sent = [event(receiver.url()) for _ in range(6)]
    await source.publish(*sent)
    await receiver.wait_for(lambda _: True, count=2)
    assert await worker.stop() == 0
    ended = [await log.delivery(each.event_id) for each in sent]
    states = sorted(row["state"] for row in ended if row is not None)
    assert states.count("DELIVERED") == len(receiver.callbacks) < 6
    outcomes = [outcome for each in sent for outcome in await log.outcomes(each.event_id)]
    assert set(outcomes) == {"delivered"}
    await start_worker()
    await log.all_delivered([each.event_id for each in sent])
    assert len(receiver.callbacks) == 6


async def test_without_allowance_loopback_is_blocked(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """CALLBACK_ALLOWED_NETWORKS is empty by default."""
    await start_worker(CALLBACK_ALLOWED_NETWORKS="")
    sent = event(receiver.url())
    await source.publish(sent)
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"]) == ("FAILED", "blocked")
    assert receiver.callbacks == []


async def test_a_delivery_past_its_expiry_fails_as_expired(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """No worker was there to make an attempt in time."""
    receiver.answer = lambda _: Answer(500)
    sent = event(receiver.url())
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,0.3,0.3", CALLBACK_EXPIRES_S="1")
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await worker.kill()
    await log.end_lease(sent.event_id)

    async def expired() -> bool:
        row = await log.delivery(sent.event_id)
        return row is not None and (await log.now()) > row["expiresAt"]

    await eventually(expired)
    await start_worker()
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"]) == ("FAILED", "expired")


async def test_a_database_outage_loses_nothing_and_sets_nothing_aside(
    house: House, start_worker: StartWorker, source: EventSource, receiver: Receiver
) -> None:
    """Events wait unacknowledged, results wait in the worker, and the process stays up."""
    receiver.answer = first_takes(0.3, receiver)
    worker = await start_worker()
    in_hand, later = event(receiver.url("in-hand")), [event(receiver.url()) for _ in range(300)]
    await source.publish(in_hand)
    await receiver.wait_for(lambda callback: callback.path == "/in-hand")
    async with outage(house):
        await source.publish(*later)

        async def both_wait() -> bool:
            tail = worker.log_tail()
            return '"what": "results"' in tail and '"what": "events"' in tail

        await eventually(both_wait)
        assert len(receiver.callbacks) == 1
    async with open_log(house.database_url) as log_after:
        await log_after.all_delivered([in_hand.event_id, *(each.event_id for each in later)], timeout_s=20)
        assert await log_after.outcomes(in_hand.event_id) == ["delivered"]
    assert len({callback.id for callback in receiver.callbacks}) == len(receiver.callbacks) == 301
    assert worker.exit_code is None
    async with open_wire(house.amqp_url) as wire:
        assert await wire.depth(dead_letter_queue(CALLBACK_EVENTS)) == 0


async def test_due_retries_go_on_while_the_broker_is_away(
    processes: Processes, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """They live in Postgres."""
    receiver.answer = lambda _: Answer(500)
    sent = event(receiver.url())
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,0.3,0.3")
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await worker.stop()
    receiver.answer = lambda _: Answer(200)
    # Nothing listens on port 9: the worker is not ready, so it is not waited for.
    blind = processes.launch("callback_worker", AMQP_URL="amqp://guest:guest@127.0.0.1:9/")
    assert (await log.ended(sent.event_id))["state"] == "DELIVERED"
    assert blind.exit_code is None
    assert await blind.stop() == 0


@asynccontextmanager
async def outage(house: House) -> AsyncIterator[None]:
    """Nobody may connect to the house's database, and whoever was connected is thrown out."""
    parts = urlsplit(house.database_url)
    name = parts.path.removeprefix("/")
    connection = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    try:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await connection.close()

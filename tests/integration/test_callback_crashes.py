"""Workers that are killed, stopped and drained. Nothing is lost, nothing is sent twice without the log saying so."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from ops.receiver import Answer, Receiver
from shared.events import Event
from tests.callbacks import (
    NOT_BY_ITSELF,
    CallbackLog,
    EventSource,
    StartWorker,
    event,
    first_takes,
    said,
)
from tests.servers import House
from tests.wire import eventually

LONG_S = 4.0


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
    receiver.answer = first_takes(2, receiver)
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


async def test_sigterm_in_the_middle_of_a_claim_sends_what_it_commits(
    house: House, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """The claim waits in the database while the drain begins: its attempts are made, none is left open."""
    receiver.answer = lambda _: Answer(200 if receiver.callbacks else 500)
    sent = event(receiver.url())
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF)
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await eventually(lambda: has_failed_once(log, sent))
    async with claims_held_up(house) as claim_waits:
        await log.make_due(sent.event_id)
        await eventually(claim_waits)
        worker.signal(signal.SIGTERM)
        await said(worker, "drain_started")
    assert await worker.stop() == 0
    assert await log.outcomes(sent.event_id) == ["server_error", "delivered"]
    assert "AssertionError" not in worker.log_tail()


async def test_a_claim_that_commits_too_late_in_a_drain_is_given_back(
    house: House, start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """An attempt that may take longer than the drain is not begun, uses up no number, and the next worker makes it."""
    receiver.answer = lambda _: Answer(200 if receiver.callbacks else 500)
    sent = event(receiver.url())
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF, CALLBACK_TIMEOUT_S="60")
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await eventually(lambda: has_failed_once(log, sent))
    async with claims_held_up(house) as claim_waits:
        await log.make_due(sent.event_id)
        await eventually(claim_waits)
        worker.signal(signal.SIGTERM)
        await said(worker, "drain_started")
    assert await worker.stop() == 0
    assert await log.outcomes(sent.event_id) == ["server_error", "not_made"]
    row = await log.delivery(sent.event_id)
    assert row is not None
    assert (row["state"], row["attemptCount"], row["leasedUntil"]) == ("PENDING", 1, None)
    await start_worker(CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF)
    assert (await log.ended(sent.event_id))["state"] == "DELIVERED"
    assert await log.outcomes(sent.event_id) == ["server_error", "delivered"]


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
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF, CALLBACK_EXPIRES_S="3600")
    await source.publish(sent)
    await receiver.wait_for(lambda _: True)
    await worker.kill()
    born = await log.delivery(sent.event_id)
    assert born is not None
    assert born["expiresAt"] - born["createdAt"] == timedelta(seconds=3600)
    await log.expire(sent.event_id)
    await log.make_due(sent.event_id)
    await log.end_lease(sent.event_id)
    await start_worker()
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"]) == ("FAILED", "expired")
    assert len(receiver.callbacks) == 1


async def has_failed_once(log: CallbackLog, sent: Event) -> bool:
    """Whether the first attempt's result is written."""
    return await log.outcomes(sent.event_id) == ["server_error"]


@asynccontextmanager
async def claims_held_up(house: House) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Claims wait in their transactions until the end; yields whether one does."""
    connection, watcher = await asyncpg.connect(house.database_url), await asyncpg.connect(house.database_url)

    async def claim_waits() -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'callback_attempts'::regclass"
        return bool(await watcher.fetchval(query))

    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE callback_attempts IN EXCLUSIVE MODE")
            yield claim_waits
    finally:
        await connection.close()
        await watcher.close()

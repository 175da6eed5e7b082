"""Subscribers that are dead, gone or slow, beside others: by real workers on a real broker and a real database."""

import socket
import time
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

import asyncpg
import pytest

from callback_worker.breaker import FAILURES_AT_ONCE
from ops.local_stack.ports import free_ports
from ops.local_stack.processes import Process
from ops.receiver import Answer, Receiver
from shared.events import Event, EventType
from tests.callbacks import CallbackLog, EventSource, StartWorker, event
from tests.deliveries import insert_backlog
from tests.servers import House
from tests.wire import eventually

# A breaker that opens soon, after so many failures; and retries that would all be over before it lets them through.
BACKLOG = FAILURES_AT_ONCE + 50
IMPATIENT = ",".join(["0", *["0.5"] * 30])
BACKLOG_ROWS = 100_000
MOST_GROWTH_BYTES = 50 * 1024 * 1024


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    """Empty tables."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("DELETE FROM callback_deliveries")
    await connection.execute("DELETE FROM callback_hosts")
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_dead_host_is_probed_by_one_attempt_at_a_time_and_gets_all_once_it_is_back(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """Over all workers. No delivery loses an attempt to the breaker, or is sent twice."""
    receiver.answer = lambda _: Answer(503)
    for _ in range(2):
        await start_worker(CALLBACK_RETRY_SCHEDULE_S=IMPATIENT)
    sent = [event(receiver.url()) for _ in range(BACKLOG)]
    await source.publish(*sent)
    await eventually(lambda: opened(database, times=1), timeout_s=20)
    before = await eventually(lambda: probes_ahead(database, times=1))
    assert before >= FAILURES_AT_ONCE
    assert await eventually(lambda: probes_ahead(database, times=3), timeout_s=30) == before
    receiver.answer = lambda _: Answer(204)
    await log.all_delivered([each.event_id for each in sent], timeout_s=40)
    assert await database.fetchval("SELECT count(*) FROM callback_hosts") == 0
    assert len(receiver.callbacks) == await database.fetchval("SELECT count(*) FROM callback_attempts")
    taken = await database.fetchval("SELECT count(*) FROM callback_attempts WHERE outcome = 'delivered'")
    assert taken == len(sent)


async def test_what_a_dead_host_keeps_waiting_ends_as_expired_in_its_time(
    start_worker: StartWorker, source: EventSource, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """A refusal by the breaker uses up no attempt, but the expiry runs on."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}/"
    await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,3,3,3,3,3", CALLBACK_EXPIRES_S="9")
    sent = [event(dead) for _ in range(BACKLOG)]
    await source.publish(*sent)
    await eventually(lambda: opened(database, times=1), timeout_s=20)
    ends = [await log.ended(each.event_id, timeout_s=20) for each in sent]
    assert {(end["state"], end["reason"]) for end in ends} == {("FAILED", "expired")}
    # Without a breaker it would be three attempts each, before it opens some two.
    assert sum(end["attemptCount"] for end in ends) < 2.7 * BACKLOG


async def test_two_subscribers_on_one_host_are_two(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """Slots and breaker are kept by host and port; the filter by host finds both."""
    await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,3,3,60")
    port = free_ports(1)[0]
    await source.publish(*(event(f"http://127.0.0.1:{port}/") for _ in range(BACKLOG)))
    await eventually(lambda: opened(database, times=1), timeout_s=20)
    heard = event(receiver.url())
    await source.publish(heard)
    assert (await log.ended(heard.event_id))["state"] == "DELIVERED"
    # Had it been the probe of both, nothing would be held against them now.
    assert await opened(database, times=1)
    hosts = await database.fetch('SELECT DISTINCT host FROM callback_deliveries WHERE "eventId" = $1', heard.event_id)
    assert [each["host"] for each in hosts] == ["127.0.0.1"]


async def test_a_hundred_thousand_due_deliveries_to_a_dead_host_starve_nobody_and_fill_no_memory(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """From event to callback it takes little longer beside them; they wait in the database."""
    # So long is the deadline that the dead host has its slots all the time.
    worker = await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,60", CALLBACK_TIMEOUT_S="60")
    alone_s = await latency_s(source, receiver)
    before = resident_bytes(worker)
    # It takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as dead:
        await insert_backlog(database, f"'127.0.0.1:{dead.getsockname()[1]}'", BACKLOG_ROWS)
        await eventually(lambda: in_hand(database, 20))
        beside_s: list[float] = []
        # What else the machine does only adds to it: the least of them counts, and the first may do.
        while len(beside_s) < 3 and min(beside_s, default=inf) > 5 * alone_s:
            beside_s.append(await latency_s(source, receiver))
            await eventually(lambda: in_hand(database, 20))
        grown = resident_bytes(worker) - before
        await worker.kill()
    assert min(beside_s) <= 5 * alone_s, (beside_s, alone_s)
    assert grown < MOST_GROWTH_BYTES


async def test_hundreds_of_hosts_that_hang_with_one_attempt_each_leave_slots_to_who_is_quick(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """Each keeps within its cap, no breaker opens for so few failures, and together they would have every slot."""
    await start_worker(CALLBACK_TIMEOUT_S="17", CALLBACK_RETRY_SCHEDULE_S="0,60")
    proof = event(receiver.url())
    await source.publish(proof)
    await log.all_delivered([proof.event_id])
    # It takes connections, at four hundred addresses, and says nothing.
    with socket.create_server(("0.0.0.0", 0), backlog=1024) as silent:
        port = silent.getsockname()[1]
        await source.publish(*(event(f"http://127.0.{n // 250}.{n % 250 + 1}:{port}/") for n in range(2, 402)))
        await eventually(lambda: in_hand(database, 150))
        heard = [event(receiver.url()) for _ in range(100)]
        await source.publish(*heard)
        await log.all_delivered([each.event_id for each in heard])
        # So nobody of the others was waited for, and none of them got more than their share.
        assert await in_hand(database, 150)


async def test_after_a_410_nothing_more_is_sent_to_that_url_of_that_session(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """What waits ends as gone, what comes later is born so; other URLs and other sessions are sent to as ever."""
    await start_worker(CALLBACK_RETRY_SCHEDULE_S="0,60")
    session_id, gone = uuid4(), receiver.url("gone")
    receiver.answer = lambda _: Answer(503)
    waiting = of_session(session_id, gone, 1)
    await source.publish(waiting)
    await eventually(lambda: has_failed_once(log, waiting))
    receiver.answer = lambda callback: Answer(410 if callback.path == "/gone" else 204)
    told = of_session(session_id, gone, 2)
    await source.publish(told)
    for each, attempt_count in ((told, 1), (waiting, 1)):
        end = await log.ended(each.event_id)
        assert (end["state"], end["reason"], end["attemptCount"]) == ("FAILED", "gone", attempt_count)
    later, elsewhere = of_session(session_id, gone, 3), of_session(session_id, receiver.url("other"), 4)
    other_session = of_session(uuid4(), gone, 1)
    await source.publish(later, elsewhere, other_session)
    end = await log.ended(later.event_id)
    assert (end["state"], end["reason"], end["attemptCount"], end["nextAttemptAt"]) == ("FAILED", "gone", 0, None)
    assert await log.attempts(later.event_id) == []
    assert (await log.ended(elsewhere.event_id))["state"] == "DELIVERED"
    assert (await log.ended(other_session.event_id))["attemptCount"] == 1
    assert str(later.event_id) not in {callback.id for callback in receiver.callbacks}


async def test_a_url_that_took_what_was_sent_again_is_not_gone_any_more(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog, database: asyncpg.Connection
) -> None:
    """The operator redelivered what was told 410, and it was delivered; those that were never sent prove nothing."""
    await start_worker()
    session_id, url = uuid4(), receiver.url()
    receiver.answer = lambda _: Answer(410)
    told, unsent, last = (of_session(session_id, url, number) for number in (1, 2, 3))
    for each in (told, unsent):
        await source.publish(each)
        assert (await log.ended(each.event_id))["reason"] == "gone"
    await database.execute(
        """UPDATE callback_deliveries SET state = 'DELIVERED', reason = NULL WHERE "eventId" = $1""", told.event_id
    )
    receiver.answer = lambda _: Answer(204)
    await source.publish(last)
    assert (await log.ended(last.event_id))["state"] == "DELIVERED"
    assert (await log.ended(unsent.event_id))["reason"] == "gone"


async def test_a_request_that_never_became_a_session_has_its_own_gone_urls(
    start_worker: StartWorker, source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """Its events carry no session id."""
    await start_worker()
    receiver.answer = lambda _: Answer(410)
    request_id = uuid4()
    first, second = (
        event(receiver.url(), type=EventType.REQUEST_DECIDED, session_id=None, request_id=request_id) for _ in range(2)
    )
    await source.publish(first)
    await log.ended(first.event_id)
    await source.publish(second)
    assert (await log.ended(second.event_id))["attemptCount"] == 0


def of_session(session_id: UUID, url: str, sequence: int) -> Event:
    """A session's event."""
    return event(url, session_id=session_id, data={"sessionId": str(session_id), "sequence": sequence})


async def opened(database: asyncpg.Connection, *, times: int) -> bool:
    """Whether the one host that fails has had its breaker opened so often."""
    count = await database.fetchval('SELECT max("openCount") FROM callback_hosts WHERE "openUntil" IS NOT NULL')
    return (count or 0) >= times


async def probes_ahead(database: asyncpg.Connection, *, times: int) -> int:
    """The attempts that were made without being a probe, once a breaker was opened so often and nothing is in hand."""
    count = await database.fetchval(
        """SELECT (SELECT count(*) FROM callback_attempts) - max("openCount") + 1 FROM callback_hosts
        WHERE "openUntil" IS NOT NULL AND "openCount" >= $1
            AND NOT EXISTS (SELECT FROM callback_attempts WHERE outcome = 'open')""",
        times,
    )
    return count or 0


async def in_hand(database: asyncpg.Connection, count: int) -> bool:
    """Whether so many attempts have no result yet."""
    return bool(await database.fetchval("SELECT count(*) = $1 FROM callback_attempts WHERE outcome = 'open'", count))


async def has_failed_once(log: CallbackLog, sent: Event) -> bool:
    return await log.outcomes(sent.event_id) == ["server_error"]


async def latency_s(source: EventSource, receiver: Receiver) -> float:
    """The median time from a confirmed event to its callback, one at a time."""
    found = []
    for _ in range(40):
        sent = event(receiver.url())
        began = time.time()
        await source.publish(sent)
        [got] = await receiver.wait_for(lambda callback, wanted=str(sent.event_id): callback.id == wanted)  # type: ignore[misc]
        found.append(got.received_at - began)
    return median(found)


def resident_bytes(process: Process) -> int:
    """What the process holds in memory (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024

"""Callbacks from event to end, by one worker on a real broker, a real database and a real subscriber."""

import json
import socket
from collections import Counter
from datetime import timedelta
from statistics import median
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from callback_worker.conversation import MAX_RESPONSE_BYTES
from callback_worker.retries import POLL_S
from callback_worker.sender import TRUNCATED
from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Receiver
from shared.events import CALLBACK_URL
from shared.topology import CALLBACK_EVENTS, EVENTS, dead_letter_queue
from tests.callbacks import CallbackLog, EventSource, event
from tests.wire import Wire, eventually

DEAD = dead_letter_queue(CALLBACK_EVENTS)
# The receiver shares a process with the tests: what answers at once is answered within that, however busy they are.
TIMEOUT_S = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def worker(processes: Processes) -> Process:
    """One worker that retries within the patience of a test."""
    return await processes.start(
        "callback_worker",
        CALLBACK_RETRY_SCHEDULE_S="0,0.2,0.2",
        CALLBACK_TIMEOUT_S=str(TIMEOUT_S),
        CALLBACK_ALLOWED_NETWORKS="127.0.0.0/8",
        LOG_LEVEL="debug",
    )


async def test_an_event_reaches_its_callback_url_signed_and_unchanged(
    source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """The body is the event's text; the official library verifies it; the log holds one delivered attempt."""
    sent = event(receiver.url("hook?token=1"))
    await source.publish(sent)
    [got] = await receiver.wait_for(lambda callback: callback.id == str(sent.event_id))
    assert got.verified
    assert got.body == sent.body().encode()
    assert got.headers["content-type"] == "application/json"
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"], delivery["attemptCount"]) == ("DELIVERED", None, 1)
    assert (delivery["nextAttemptAt"], delivery["leasedUntil"]) == (None, None)
    assert delivery["deliveredAt"] > delivery["createdAt"]
    assert (delivery["body"], delivery["sessionId"]) == (sent.body(), sent.session_id)
    [attempt] = await log.attempts(sent.event_id)
    assert (attempt["number"], attempt["outcome"], attempt["statusCode"]) == (1, "delivered", 204)
    assert attempt["durationMs"] is not None
    assert not attempt["manual"]


async def test_a_failed_attempt_is_repeated_with_the_same_webhook_id(
    source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """The retry is signed anew; a receiver deduplicates by the id. It comes in its time, not with the next poll."""
    gaps_s = []
    for _ in range(5):
        receiver.callbacks.clear()
        receiver.answer = lambda _: Answer(503 if len(receiver.callbacks) == 0 else 200, body=b"thanks")
        sent = event(receiver.url())
        await source.publish(sent)
        await receiver.wait_for(lambda _: True, count=2)
        first, second = receiver.callbacks
        assert first.id == second.id == str(sent.event_id)
        assert first.verified
        assert second.verified
        gaps_s.append(second.received_at - first.received_at)
        delivery = await log.ended(sent.event_id)
        assert (delivery["state"], delivery["attemptCount"]) == ("DELIVERED", 2)
        assert await log.outcomes(sent.event_id) == ["server_error", "delivered"]
    assert min(gaps_s) >= 0.18
    # What keeps a busy machine from one or two of them says nothing about the worker.
    assert median(gaps_s) <= 0.7, gaps_s


ENDS = [
    (410, "gone", ["refused_status"]),
    (404, "rejected", ["refused_status"] * 2),
    (302, "rejected", ["refused_status"]),
    (500, "exhausted", ["server_error"] * 3),
    (429, "exhausted", ["throttled"] * 3),
]


@pytest.mark.parametrize(("status", "reason", "outcomes"), ENDS)
async def test_a_status_that_does_not_deliver_ends_the_delivery_with_its_reason(
    status: int, reason: str, outcomes: list[str], source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """410 at once, other 4xx after two, 3xx without following it, the retried ones when the schedule is used up."""
    location = {"Location": receiver.url("elsewhere")} if status == 302 else {}
    receiver.answer = lambda _: Answer(status, headers=location, body=b"no")
    sent = event(receiver.url("hook"))
    await source.publish(sent)
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"], delivery["attemptCount"]) == ("FAILED", reason, len(outcomes))
    assert delivery["nextAttemptAt"] is None
    assert await log.outcomes(sent.event_id) == outcomes
    assert {(a["statusCode"], a["responseBody"]) for a in await log.attempts(sent.event_id)} == {(status, "no")}
    assert [callback.path for callback in receiver.callbacks] == ["/hook"] * len(outcomes)


async def test_a_subscriber_that_thinks_for_too_long_is_cut_at_the_deadline(
    source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """One wall clock for the whole attempt."""
    receiver.answer = lambda _: Answer(delay_s=0 if len(receiver.callbacks) else 2 * TIMEOUT_S)
    sent = event(receiver.url())
    await source.publish(sent)
    await log.ended(sent.event_id, timeout_s=20)
    first, second = await log.attempts(sent.event_id)
    assert (first["outcome"], second["outcome"]) == ("timeout_response", "delivered")
    assert 0.99 * TIMEOUT_S <= first["durationMs"] / 1000 <= 1.8 * TIMEOUT_S


async def test_a_large_response_is_kept_up_to_16_kib(source: EventSource, receiver: Receiver, log: CallbackLog) -> None:
    """With a mark where it was cut, and without what Postgres cannot store."""
    receiver.answer = lambda _: Answer(200, body=b"\0" + b"r" * 51_000)
    sent = event(receiver.url())
    await source.publish(sent)
    assert (await log.ended(sent.event_id))["state"] == "DELIVERED"
    [attempt] = await log.attempts(sent.event_id)
    assert attempt["responseBody"] == "r" * (MAX_RESPONSE_BYTES - 1) + TRUNCATED


@pytest.mark.parametrize(
    "url", ["http://[::1]:9/", "http://10.0.0.1/", "http://2130706433/", "http://169.254.169.254/latest", "no url"]
)
async def test_a_forbidden_destination_fails_as_blocked_at_once(
    url: str, source: EventSource, log: CallbackLog
) -> None:
    """Whatever the URL looks like; the attempt says so, and nothing was dialled."""
    sent = event(url)
    await source.publish(sent)
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"]) == ("FAILED", "blocked")
    [attempt] = await log.attempts(sent.event_id)
    assert (attempt["outcome"], attempt["statusCode"]) == ("blocked", None)


async def test_an_event_message_that_comes_twice_causes_one_callback(
    source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """In one batch or in two."""
    first, last = event(receiver.url()), event(receiver.url("last"))
    await source.publish(first, first)
    await log.ended(first.event_id)
    await source.publish(first)
    await source.publish(last)
    await log.ended(last.event_id)
    assert [callback.id for callback in receiver.callbacks] == [str(first.event_id), str(last.event_id)]


async def test_an_event_that_nobody_wants_to_hear_of_is_acknowledged(
    source: EventSource, receiver: Receiver, log: CallbackLog, wire: Wire
) -> None:
    """No callback URL, no delivery."""
    silent, heard = event(None), event(receiver.url())
    await source.publish(silent, heard)
    await log.ended(heard.event_id)
    assert await log.delivery(silent.event_id) is None

    async def drained() -> bool:
        return await wire.depth(CALLBACK_EVENTS) == 0

    await eventually(drained)


BAD = [
    (b"{nope", {}, "not_json"),
    (b"\xff\xfe", {}, "not_json"),
    (b"[]", {}, "schema_violation"),
    (b'{"type": 5}', {}, "schema_violation"),
    (b'{"type": "x"}', {"session-id": "no uuid"}, "schema_violation"),
    (b'{"type": "x"}', {CALLBACK_URL: "http://a.example/" + "x" * 2048}, "unprocessable"),
    (b'{"type": "x"}', {CALLBACK_URL: "http://a.example/\0"}, "unprocessable"),
    (json.dumps({"type": "x" * 65}).encode(), {CALLBACK_URL: "http://127.0.0.1:9/"}, "unprocessable"),
]


@pytest.mark.parametrize(("body", "headers", "code"), BAD)
async def test_an_event_message_nobody_understands_is_set_aside_unchanged(
    body: bytes, headers: dict[str, str], code: str, wire: Wire, source: EventSource, receiver: Receiver
) -> None:
    """To the dead-letter queue with the reason; its neighbours are delivered."""
    neighbours = [event(receiver.url()), event(receiver.url())]
    await source.publish(neighbours[0])
    message_id = await wire.publish("session.started.v1", body, exchange=EVENTS, headers=headers)
    await source.publish(neighbours[1])
    letter = await wire.get(DEAD)
    assert (letter.body, letter.message_id) == (body, message_id)
    assert headers.items() <= letter.headers.items()
    assert (letter.headers["error"], letter.headers["failed-by"]) == (code, "callback_worker")
    assert letter.headers["error-detail"]
    assert letter.headers["failed-at"]
    ids = {str(neighbour.event_id) for neighbour in neighbours}
    await receiver.wait_for(lambda callback: callback.id in ids, count=2)
    assert await wire.depth(DEAD) == 0


async def test_an_event_message_without_an_id_is_set_aside(wire: Wire) -> None:
    """Without one no receiver could tell a repetition."""
    await wire.publish("session.started.v1", b'{"type": "x"}', message_id=None, exchange=EVENTS)
    letter = await wire.get(DEAD)
    assert letter.headers["error"] == "no_message_id"


async def test_a_thousand_events_to_one_host_are_delivered_once_each(
    source: EventSource, receiver: Receiver, log: CallbackLog
) -> None:
    """Far more than the host has slots for; what finds none is claimed when one is free."""
    sent = [event(receiver.url()) for _ in range(1000)]
    await source.publish(*sent)
    await log.all_delivered([each.event_id for each in sent], timeout_s=30)
    assert len({callback.id for callback in receiver.callbacks}) == 1000
    # One attempt each, but for those that a busy machine let run into the deadline: the log has them all.
    assert len(receiver.callbacks) == sum([len(await log.attempts(each.event_id)) for each in sent])
    assert all(callback.verified for callback in receiver.callbacks)


async def test_a_silent_host_delays_no_other(source: EventSource, receiver: Receiver, log: CallbackLog) -> None:
    """It takes its own slots and no more."""
    # It takes connections and says nothing.
    with socket.create_server(("127.0.0.9", 0), backlog=64) as silent:
        stuck = [event(f"http://127.0.0.9:{silent.getsockname()[1]}/") for _ in range(60)]
        healthy = [event(receiver.url()) for _ in range(20)]
        await source.publish(*stuck, *healthy)
        await log.all_delivered([each.event_id for each in healthy])
        # None of the stuck ones has given its slot back: nobody waited for that.
        outcomes = [outcome for each in stuck for outcome in await log.outcomes(each.event_id)]
        assert Counter(outcomes) == {"open": 20}
    delivered = [row for each in healthy if (row := await log.delivery(each.event_id))]
    # Born with a slot, not found by the next poll.
    assert min(each["deliveredAt"] - each["createdAt"] for each in delivered) < timedelta(seconds=POLL_S - 0.1)
    for each in stuck:
        await log.ended(each.event_id, timeout_s=20)


async def test_no_log_line_shows_a_query_or_a_body(
    source: EventSource, receiver: Receiver, log: CallbackLog, worker: Process
) -> None:
    """URLs carry tokens; bodies carry people."""
    secret = f"s3cret-{uuid4()}"
    receiver.answer = lambda _: Answer(500, body=secret.encode())
    sent = event(receiver.url(f"{secret}?token={secret}"), data={"sequence": 1, "name": secret})
    await source.publish(sent)
    await log.ended(sent.event_id)
    lines = worker.log.read_text()
    assert str(sent.event_id) in lines
    assert secret not in lines


async def test_readiness_and_metrics_tell_how_it_goes(
    source: EventSource, receiver: Receiver, log: CallbackLog, worker: Process
) -> None:
    """Checks by name; attempts by outcome, deliveries by end, the way from event to first attempt."""
    sent = event(receiver.url())
    await source.publish(sent)
    await log.ended(sent.event_id)
    async with httpx.AsyncClient(base_url=worker.url, trust_env=False) as client:
        ready, metrics = await client.get("/readyz"), (await client.get("/metrics")).text
    assert (ready.status_code, ready.json()["checks"]) == (200, {"broker": "ok", "database": "ok", "loops": "ok"})
    for series in (
        'voltline_callback_attempts_total{outcome="delivered"}',
        'voltline_callback_deliveries_total{end="delivered"}',
        "voltline_callback_attempts_in_flight 0.0",
        "voltline_callback_first_attempt_seconds_count",
    ):
        assert series in metrics


async def test_nothing_here_was_delivered_by_the_end_of_a_lease(log: CallbackLog) -> None:
    """No worker died, so none had to take over from another. The last test of its house."""
    assert await log.count("callback_attempts WHERE outcome = 'ambiguous'") == 0

"""Redelivery and the log: gateway, callback worker and subscriber on a real broker and database."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from callback_worker.apply import REDELIVERIES_MOST
from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Receiver
from shared.callback_commands import Redeliver
from shared.events import Event
from shared.topology import CALLBACK_COMMANDS, COMMANDS, dead_letter_queue
from tests.callbacks import NOT_BY_ITSELF, CallbackLog, EventSource, event
from tests.keyed import calling_as, key_file, secret_of
from tests.servers import REPOSITORY, House
from tests.unit.gateway.test_bad_input import problem
from tests.wire import Wire, eventually

DEAD = dead_letter_queue(CALLBACK_COMMANDS)
WAIT = {"Prefer": "wait=30"}

ITEM_KEYS = [
    "callbackId", "eventId", "type", "sessionId", "requestId", "url", "state", "reason", "attemptCount",
    "nextAttemptAt", "createdAt", "deliveredAt",
]  # fmt: skip
ATTEMPT_KEYS = ["number", "startedAt", "durationMs", "outcome", "statusCode", "error", "responseBody", "manual"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(processes: Processes) -> Process:
    return await processes.start("callback_worker", CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF, CALLBACK_TIMEOUT_S="20")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(processes: Processes, tmp_path_factory: pytest.TempPathFactory, worker: Process) -> Process:
    return await processes.start("gateway", API_KEYS_FILE=key_file(Path(tmp_path_factory.mktemp("keys"))))


@pytest.fixture
async def app(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with calling_as("app", gateway) as opened:
        yield opened


@pytest.fixture
async def other(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with calling_as("other", gateway) as opened:
        yield opened


@pytest.fixture
async def desk(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with calling_as("desk", gateway) as opened:
        yield opened


@pytest.fixture
async def subscriber() -> AsyncIterator[Receiver]:
    """The client's receiver, with the client's own secret."""
    async with Receiver(secret_of("app")) as opened:
        yield opened


async def put(
    source: EventSource, log: CallbackLog, url: str, *, attempts: int = 1, **changes: Any
) -> tuple[Event, str]:
    """Publish an event of the client; return it, and its callback's id once that many attempts are over."""
    sent = event(url, **({"client": "app"} | changes))
    await source.publish(sent)
    await outcomes_are_told(log, sent, attempts)
    delivery = await log.delivery(sent.event_id)
    assert delivery is not None
    return sent, str(delivery["id"])


async def outcomes_are_told(log: CallbackLog, sent: Event, count: int) -> list[str]:
    """Wait until so many attempts are over; return what became of them."""

    async def look() -> list[str]:
        outcomes = await log.outcomes(sent.event_id)
        return outcomes if len(outcomes) == count and "open" not in outcomes else []

    return await eventually(look)


async def test_a_failed_callback_is_sent_again_and_delivered(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """The same id and body, signed anew with the client's key; the log tells both attempts."""
    subscriber.answer = lambda _: Answer(410 if len(subscriber.callbacks) == 0 else 204, body=b"no more")
    sent, callback_id = await put(source, log, subscriber.url("hook"))
    answer = await app.post(f"/api/v1/callbacks/{callback_id}/redeliver")
    assert (answer.status_code, answer.headers["location"]) == (202, f"/api/v1/callbacks/{callback_id}")
    assert answer.json() == {
        "success": True, "callbackId": callback_id, "message": "Callback redelivery received",
    }  # fmt: skip
    assert await outcomes_are_told(log, sent, 2) == ["refused_status", "delivered"]
    assert {(got.id, got.body, got.verified) for got in subscriber.callbacks} == {
        (str(sent.event_id), sent.body().encode(), True)
    }
    shown = (await app.get(f"/api/v1/callbacks/{callback_id}")).json()
    assert list(shown) == [*ITEM_KEYS, "body", "attempts"]
    assert (shown["state"], shown["reason"], shown["attemptCount"]) == ("DELIVERED", None, 2)
    assert (shown["eventId"], shown["body"], shown["nextAttemptAt"]) == (str(sent.event_id), sent.body(), None)
    assert [list(attempt) for attempt in shown["attempts"]] == [ATTEMPT_KEYS] * 2
    assert [(attempt["number"], attempt["manual"]) for attempt in shown["attempts"]] == [(1, False), (2, True)]
    assert (shown["attempts"][0]["statusCode"], shown["attempts"][0]["responseBody"]) == (410, "no more")


@pytest.mark.parametrize(
    ("first", "state", "reason"), [(410, "FAILED", "gone"), (204, "DELIVERED", None), (500, "PENDING", None)]
)
async def test_a_redelivery_that_fails_leaves_everything_as_it_was(
    first: int,
    state: str,
    reason: str | None,
    app: httpx.AsyncClient,
    source: EventSource,
    log: CallbackLog,
    subscriber: Receiver,
) -> None:
    """State, reason, the time of the next attempt: only the log knows of it."""
    subscriber.answer = lambda _: Answer(503 if subscriber.callbacks else first, headers={"Retry-After": "60"})
    sent, callback_id = await put(source, log, subscriber.url())
    before = await log.delivery(sent.event_id)
    assert before is not None
    assert (before["state"], before["reason"]) == (state, reason)
    await app.post(f"/api/v1/callbacks/{callback_id}/redeliver")
    assert (await outcomes_are_told(log, sent, 2))[1] == "server_error"
    after = await log.delivery(sent.event_id)
    assert after == before | {"attemptCount": 2, "manualCount": 1}


async def test_a_manual_attempt_takes_no_place_in_the_schedule(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """After any number of them the second scheduled attempt is still to come, and it is the last."""
    subscriber.answer = lambda _: Answer(500)
    sent, callback_id = await put(source, log, subscriber.url())
    for count in (2, 3):
        await app.post(f"/api/v1/callbacks/{callback_id}/redeliver")
        await outcomes_are_told(log, sent, count)
    await log.make_due(sent.event_id)
    delivery = await log.ended(sent.event_id)
    assert (delivery["state"], delivery["reason"], delivery["attemptCount"]) == ("FAILED", "exhausted", 4)
    assert [attempt["manual"] for attempt in await log.attempts(sent.event_id)] == [False, True, True, False]


async def test_a_command_acts_once_however_often_it_is_delivered(
    wire: Wire, source: EventSource, log: CallbackLog, subscriber: Receiver, worker: Process
) -> None:
    """Another command is another attempt; the same id with another body is refused."""
    sent, callback_id = await put(source, log, subscriber.url())
    message_id = str(uuid4())
    for identity in (message_id, message_id, str(uuid4()), message_id):
        await wire.publish(Redeliver.TYPE, {"callbackId": callback_id}, message_id=identity, exchange=COMMANDS)
    await wire.publish(Redeliver.TYPE, {"sessionId": str(uuid4())}, message_id=message_id, exchange=COMMANDS)
    await log.command_is_refused("IDEMPOTENCY_CONFLICT")
    assert await outcomes_are_told(log, sent, 3) == ["delivered"] * 3


async def test_what_nobody_understands_is_set_aside_with_its_reason(wire: Wire, worker: Process) -> None:
    """Unchanged, and the next command is handled."""
    for body, key, error in (
        (b"{", Redeliver.TYPE, "not_json"),
        (b"{}", Redeliver.TYPE, "schema_violation"),
        (b"{}", "callback.dance.v1", "unknown_type"),
    ):
        await wire.publish(key, body, exchange=COMMANDS)
        letter = await wire.get(DEAD)
        assert (letter.body, letter.headers["error"]) == (body, error)
        assert letter.headers["failed-by"] == "callback_worker"
    await wire.publish(Redeliver.TYPE, {"callbackId": str(uuid4())}, message_id="no uuid", exchange=COMMANDS)
    assert (await wire.get(DEAD)).headers["error"] == "no_message_id"


async def test_a_client_neither_sees_nor_sends_what_is_anothers(
    app: httpx.AsyncClient,
    other: httpx.AsyncClient,
    desk: httpx.AsyncClient,
    wire: Wire,
    source: EventSource,
    log: CallbackLog,
    subscriber: Receiver,
) -> None:
    """404, as for what there is not; also where the gateway could not look, as then the worker does."""
    sent, callback_id = await put(source, log, subscriber.url())
    for unknown in (callback_id, str(uuid4())):
        problem(await other.get(f"/api/v1/callbacks/{unknown}"), 404, "not-found")
        problem(await other.post(f"/api/v1/callbacks/{unknown}/redeliver"), 404, "not-found")
    found = {"sessionId": str(sent.session_id)}
    assert [len((await one.get("/api/v1/callbacks", params=found)).json()["items"]) for one in (app, other, desk)] == [
        1, 0, 1,
    ]  # fmt: skip
    await wire.publish(
        Redeliver.TYPE, {"callbackId": callback_id}, exchange=COMMANDS, headers={"client": "other", "privileged": False}
    )
    await log.command_is_refused("UNKNOWN_CALLBACK")
    assert await log.outcomes(sent.event_id) == ["delivered"]


async def test_who_waits_is_shown_the_callback(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """`Prefer: wait` on a redelivery: 200 once it is queued."""
    _, callback_id = await put(source, log, subscriber.url())
    answer = await app.post(f"/api/v1/callbacks/{callback_id}/redeliver", headers=WAIT)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert list(answer.json()) == ITEM_KEYS


async def test_a_client_can_have_a_callback_sent_again_so_often_within_an_hour(
    app: httpx.AsyncClient,
    desk: httpx.AsyncClient,
    source: EventSource,
    log: CallbackLog,
    subscriber: Receiver,
    house: House,
) -> None:
    """A loop at the client's would fill the log. Another callback has its own count, and operators may always."""
    sent, callback_id = await put(source, log, subscriber.url())
    path = f"/api/v1/callbacks/{callback_id}/redeliver"
    for _ in range(REDELIVERIES_MOST):
        assert (await app.post(path, headers=WAIT)).status_code == 200
    assert problem(await app.post(path, headers=WAIT), 409, "refused")["reason"] == "TOO_MANY_REDELIVERIES"
    await outcomes_are_told(log, sent, 1 + REDELIVERIES_MOST)
    assert problem(await app.post(path, headers=WAIT), 409, "refused")["reason"] == "TOO_MANY_REDELIVERIES"
    _, another_id = await put(source, log, subscriber.url())
    assert (await app.post(f"/api/v1/callbacks/{another_id}/redeliver", headers=WAIT)).status_code == 200
    connection = await asyncpg.connect(house.database_url)
    give = "UPDATE callback_deliveries SET client = $1 WHERE id = $2"
    await connection.execute(give, "desk", UUID(callback_id))
    assert (await desk.post(path, headers=WAIT)).status_code == 200
    await connection.execute(give, "app", UUID(callback_id))
    await connection.execute("""UPDATE callback_attempts SET "startedAt" = "startedAt" - interval '1 hour'""")
    await connection.close()
    assert (await app.post(path, headers=WAIT)).status_code == 200


async def test_the_log_is_listed_newest_first_page_by_page(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """By session, by state, and to the last page."""
    session_id = uuid4()
    ids = [(await put(source, log, subscriber.url(), session_id=session_id))[1] for _ in range(3)]
    query: dict[str, Any] = {"sessionId": str(session_id), "limit": 2}
    first = (await app.get("/api/v1/callbacks", params=query)).json()
    second = (await app.get("/api/v1/callbacks", params=query | {"cursor": first["nextCursor"]})).json()
    assert [item["callbackId"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["nextCursor"] is None
    assert list(first["items"][0]) == ITEM_KEYS
    for state, count in (("DELIVERED", 2), ("FAILED", 0)):
        assert len((await app.get("/api/v1/callbacks", params=query | {"state": state})).json()["items"]) == count
    for name, wrong in (("state", "LOST"), ("sessionId", "x"), ("cursor", "x"), ("limit", "0")):
        problem(await app.get("/api/v1/callbacks", params={name: wrong}), 400, "invalid-parameter")


async def test_many_are_sent_again_by_a_filter(
    desk: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """The dry run counts what the real one then sends, and nothing else is sent."""
    subscriber.answer = lambda _: Answer(410)
    request_id = uuid4()
    failed = [event(subscriber.url(), client="app", request_id=request_id, session_id=None) for _ in range(25)]
    await source.publish(*failed)
    for sent in failed:
        await log.ended(sent.event_id)
    spared, _ = await put(source, log, subscriber.url(), request_id=uuid4())
    subscriber.answer = lambda _: Answer(204)
    wanted = {"requestId": str(request_id), "state": "FAILED", "reason": "gone", "host": "127.0.0.1"}
    dry = await desk.post("/api/v1/callbacks/redeliver", json=wanted | {"dryRun": True})
    assert (dry.status_code, dry.json()) == (200, {"count": 25})
    answer = await desk.post("/api/v1/callbacks/redeliver", json=wanted | {"dryRun": False})
    assert (answer.status_code, answer.json()["success"]) == (202, True)
    await log.all_delivered([sent.event_id for sent in failed])
    assert len(await log.attempts(spared.event_id)) == 1
    assert (await desk.post("/api/v1/callbacks/redeliver", json=wanted | {"dryRun": True})).json() == {"count": 0}


async def test_a_filter_needs_the_operator_and_at_least_one_key(
    app: httpx.AsyncClient, desk: httpx.AsyncClient, wire: Wire, log: CallbackLog
) -> None:
    """An empty one would send everything again; the worker looks at the scope, too."""
    problem(await app.post("/api/v1/callbacks/redeliver", json={"state": "FAILED"}), 403, "forbidden")
    for body in ({}, {"dryRun": True}, {"sate": "FAILED"}):
        refused = problem(await desk.post("/api/v1/callbacks/redeliver", json=body), 400, "invalid-body")
        assert "sessionId, requestId, state, reason, host, createdFrom, createdTo" in refused["detail"]
    problem(await desk.post("/api/v1/callbacks/redeliver", json={"state": "LOST"}), 400, "invalid-body")
    await wire.publish(
        Redeliver.TYPE, {"state": "FAILED"}, exchange=COMMANDS, headers={"client": "app", "privileged": False}
    )
    await log.command_is_refused("NOT_PRIVILEGED")


async def test_an_operator_lists_shows_and_sends_again_from_the_shell(
    house: House, worker: Process, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """Reads come from the database, redelivery goes over the queue; a dry run publishes nothing."""
    subscriber.answer = lambda _: Answer(410, body=b"left [for] good")
    sent, callback_id = await put(source, log, subscriber.url("hook?token=secret"))
    listed = await ops(house, "list", "--session", str(sent.session_id), "--state", "failed")
    assert callback_id in listed
    assert "gone" in listed
    assert "1 callback" in listed
    assert "secret" not in listed
    [line] = (await ops(house, "list", "--session", str(sent.session_id), "--json")).splitlines()
    assert (json.loads(line)["callbackId"], json.loads(line)["state"]) == (callback_id, "FAILED")
    shown = await ops(house, "show", callback_id)
    assert sent.body() in shown
    assert "left [for] good" in shown
    query = ("--session", str(sent.session_id), "--reason", "gone", "--host", "127.0.0.1", "--from", "2020-01-01")
    assert await ops(house, "redeliver", *query, "--dry-run") == "1 callback would be sent again.\n"
    subscriber.answer = lambda _: Answer(204)
    assert re.fullmatch(r"Queued as \S+\. See .* python -m ops callbacks list\n", await ops(house, "redeliver", *query))
    assert await outcomes_are_told(log, sent, 2) == ["refused_status", "delivered"]
    assert (await ops(house, "redeliver", callback_id)).endswith(f"python -m ops callbacks show {callback_id}\n")
    assert await outcomes_are_told(log, sent, 3) == ["refused_status", "delivered", "delivered"]


async def ops(house: House, *arguments: str) -> str:
    """Run `python -m ops callbacks …` and return what it said."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "callbacks", *arguments,
        cwd=REPOSITORY, env={**os.environ, **house.environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await child.communicate()
    assert child.returncode == 0, said.decode()
    return said.decode()


async def test_a_worker_killed_in_a_redelivery_leaves_it_to_others(
    processes: Processes,
    worker: Process,
    app: httpx.AsyncClient,
    source: EventSource,
    log: CallbackLog,
    subscriber: Receiver,
) -> None:
    """The attempt is ambiguous, another one follows, and then there is none to make."""
    sent, callback_id = await put(source, log, subscriber.url())
    subscriber.answer = lambda _: Answer(delay_s=15 if len(subscriber.callbacks) == 1 else 0)
    await app.post(f"/api/v1/callbacks/{callback_id}/redeliver")
    await log.opened(sent.event_id)
    await worker.kill()
    await log.end_lease(sent.event_id)
    after = await processes.start("callback_worker", CALLBACK_RETRY_SCHEDULE_S=NOT_BY_ITSELF, CALLBACK_TIMEOUT_S="20")
    assert await outcomes_are_told(log, sent, 3) == ["delivered", "ambiguous", "delivered"]
    assert await log.count("callback_redeliveries") == 0
    await after.stop()


def test_the_keys_of_the_filter_are_the_contracts() -> None:
    """Flat, and in camelCase."""
    body = json.loads(Redeliver(callback_id=UUID(int=1)).model_dump_json(by_alias=True))
    assert list(body) == [
        "callbackId", "sessionId", "requestId", "state", "reason", "host", "createdFrom", "createdTo",
    ]  # fmt: skip

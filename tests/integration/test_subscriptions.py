"""Standing subscriptions, from the gateway to the signed post, on a real broker and database."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from callback_worker.subscriptions import SUBSCRIPTIONS_MOST
from ops.local_stack.processes import Process, Processes
from ops.receiver import Receiver
from shared.events import EventType
from shared.topology import CALLBACK_COMMANDS
from tests.callbacks import CallbackLog, EventSource, event, open_log
from tests.keyed import calling_as, key_file, secret_of
from tests.servers import House
from tests.unit.gateway.test_bad_input import problem
from tests.wire import eventually

PATH = "/api/v1/subscriptions"
WAIT = {"Prefer": "wait=30"}
COMPLETED, STARTED = EventType.SESSION_COMPLETED, EventType.SESSION_STARTED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(processes: Processes) -> Process:
    return await processes.start("callback_worker")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(processes: Processes, tmp_path_factory: pytest.TempPathFactory, worker: Process) -> Process:
    return await processes.start("gateway", API_KEYS_FILE=key_file(Path(tmp_path_factory.mktemp("keys"))))


@pytest.fixture
async def log(house: House) -> AsyncIterator[CallbackLog]:
    """With nobody subscribed."""
    async with open_log(house.database_url) as opened:
        await opened.clear("callback_subscriptions")
        yield opened


@pytest.fixture
async def app(gateway: Process, log: CallbackLog) -> AsyncIterator[httpx.AsyncClient]:
    async with calling_as("app", gateway) as opened:
        yield opened


@pytest.fixture
async def other(gateway: Process, log: CallbackLog) -> AsyncIterator[httpx.AsyncClient]:
    async with calling_as("other", gateway) as opened:
        yield opened


@pytest.fixture
async def subscriber() -> AsyncIterator[Receiver]:
    """The client's receiver, with the client's own secret."""
    async with Receiver(secret_of("app")) as opened:
        yield opened


async def put(client: httpx.AsyncClient, name: str, **body: Any) -> dict[str, Any]:
    """Set a subscription, wait until it is, and return it."""
    answer = await client.put(f"{PATH}/{quote(name, safe='')}", json=body, headers=WAIT)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def paths_of(source: EventSource, log: CallbackLog, subscriber: Receiver, *events: Any) -> list[set[str]]:
    """Publish the events, one after the other; return where each arrived."""
    for sent in events:
        await source.publish(sent)
    # The queue is read in order: when a last event has come, all before it are born.
    last = event(subscriber.url("last"), client="app", type=EventType.PAYMENT_PAID)
    await source.publish(last)
    await log.ended(last.event_id)
    await log.none_is_pending()
    return [{got.path for got in subscriber.callbacks if got.id == str(sent.event_id)} for sent in events]


async def test_an_event_goes_to_its_own_url_and_to_every_matching_subscription(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """Each is a delivery of its own, signed with the client's key; one URL twice is one."""
    await put(app, "all", url=subscriber.url("all"))
    await put(app, "ends", url=subscriber.url("ends"), types=[COMPLETED])
    await put(app, "ends too", url=subscriber.url("ends"), types=[COMPLETED, STARTED])
    await put(app, "resting", url=subscriber.url("resting"), paused=True)
    await put(app, "payments", url=subscriber.url("payments"), types=["payment.failed"])
    started = event(subscriber.url("own"), client="app", type=STARTED)
    completed = event(None, client="app", type=COMPLETED)
    twice = event(subscriber.url("all"), client="app", type=COMPLETED)
    assert await paths_of(source, log, subscriber, started, completed, twice) == [
        {"/own", "/all", "/ends"}, {"/all", "/ends"}, {"/all", "/ends"},
    ]  # fmt: skip
    assert all(got.verified for got in subscriber.callbacks)
    assert len([got for got in subscriber.callbacks if got.id == str(twice.event_id)]) == 2


async def test_a_subscription_hears_only_of_its_own_clients_events(
    app: httpx.AsyncClient, other: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """Two clients may give one name to theirs; what belongs to nobody is the anonymous caller's."""
    await put(app, "mine", url=subscriber.url("app"))
    await put(other, "mine", url=subscriber.url("other"))
    await log.subscribe("anonymous", subscriber.url("anonymous"))
    sent = [event(None, client=client) for client in ("app", "other", "stranger", None, "anonymous")]
    assert await paths_of(source, log, subscriber, *sent) == [
        {"/app"}, {"/other"}, set(), {"/anonymous"}, {"/anonymous"},
    ]  # fmt: skip
    assert [item["url"] for item in (await app.get(PATH)).json()["items"]] == [subscriber.url("app")]
    await app.delete(f"{PATH}/mine", headers=WAIT)
    assert (await other.get(f"{PATH}/mine")).json()["url"] == subscriber.url("other")


async def test_a_subscription_is_set_shown_changed_and_removed(app: httpx.AsyncClient) -> None:
    """What is set in between is seen by the next event; the time of its making stays."""
    first = await put(app, "a/b ü", url="https://x.example/1", types=[STARTED, COMPLETED, STARTED])
    assert list(first) == ["name", "url", "types", "paused", "createdAt", "updatedAt"]
    assert (first["name"], first["types"], first["paused"]) == ("a/b ü", [STARTED, COMPLETED], False)
    second = await put(app, "a/b ü", url="https://x.example/2", paused=True)
    assert (second["url"], second["types"], second["paused"]) == ("https://x.example/2", None, True)
    assert second["createdAt"] == first["createdAt"] < second["updatedAt"]
    path = f"{PATH}/{quote('a/b ü', safe='')}"
    assert (await app.get(path)).json() == second
    assert (await app.get(PATH)).json() == {"items": [second], "nextCursor": None}
    removed = await app.delete(path, headers=WAIT)
    assert (removed.status_code, removed.json()) == (200, {"name": "a/b ü", "deleted": True})
    problem(await app.get(path), 404, "not-found")
    again = await app.delete(path)
    assert (again.status_code, again.json()["name"]) == (202, "a/b ü")


async def test_a_change_counts_for_the_very_next_event(
    app: httpx.AsyncClient, source: EventSource, log: CallbackLog, subscriber: Receiver
) -> None:
    """Whoever was told that it is applied relies on it."""
    for number in range(5):
        await put(app, "moving", url=subscriber.url(f"{number}"), paused=number == 3)
        sent = event(None, client="app")
        expected = set() if number == 3 else {f"/{number}"}
        assert await paths_of(source, log, subscriber, sent) == [expected]


async def test_a_client_has_so_many_and_no_more(app: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """One more is refused; one that is there can be changed, and another client has room."""
    for number in range(SUBSCRIPTIONS_MOST):
        await put(app, f"{number}", url="https://x.example/")
    refused = await app.put(f"{PATH}/more", json={"url": "https://x.example/"}, headers=WAIT)
    assert problem(refused, 409, "refused")["reason"] == "TOO_MANY_SUBSCRIPTIONS"
    await put(app, "0", url="https://y.example/")
    await put(other, "0", url="https://x.example/")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": "ftp://x.example/"}, "/url"),
        ({"url": "https://user@x.example/"}, "/url"),
        ({"url": "https://x.example/", "types": ["session.exploded"]}, "/types/0"),
        ({"url": "https://x.example/", "types": []}, "/types"),
        ({"url": "https://x.example/", "paused": "no"}, "/paused"),
    ],
)
async def test_what_makes_no_subscription_is_refused(
    body: dict[str, Any], pointer: str, app: httpx.AsyncClient
) -> None:
    answer = await app.put(f"{PATH}/{uuid4()}", json=body)
    assert problem(answer, 400, "invalid-body")["errors"][0]["pointer"] == pointer


async def test_a_worker_that_hears_no_commands_is_not_ready(house: House, gateway: Process, worker: Process) -> None:
    """Its queue is gone: readiness names it. The last test of its house."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        queue = f"{house.management_url}/api/queues/{house.name}/{CALLBACK_COMMANDS}"
        (await client.delete(queue)).raise_for_status()

        async def look() -> bool:
            answer = await client.get(f"{worker.url}/readyz")
            return answer.status_code == 503 and f"no consumer on {CALLBACK_COMMANDS}" in answer.text

        await eventually(look)

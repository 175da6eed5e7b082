"""The example of a subscriber, and `python -m ops listen`, as processes, against what the worker really posts."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from callback_worker.addresses import AddressPolicy
from callback_worker.delivery import Attempt
from callback_worker.destination import DestinationPolicy
from callback_worker.lookup import Lookup
from callback_worker.sender import Sender
from ops.local_stack.ports import free_ports
from ops.local_stack.processes import READY_TIMEOUT_S
from shared.clock import now_utc
from shared.signing_keys import parse_key
from tests.conftest import SIGNING_KEY
from tests.servers import REPOSITORY
from tests.wire import eventually

OTHER_KEY = "whsec_b3RoZXIga2V5IG9mIG5vYm9keSBhdCBhbGwh"
SESSION = str(uuid4())


@pytest.fixture(scope="module")
def receiver() -> Any:
    """Its address; it holds an old and a new secret."""
    port = free_ports(1)[0]
    environment = {**os.environ, "PORT": str(port), "WEBHOOK_SECRETS": f"{OTHER_KEY},{SIGNING_KEY}"}
    child = subprocess.Popen([sys.executable, "examples/receiver.py"], cwd=REPOSITORY, env=environment)
    yield f"http://127.0.0.1:{port}"
    child.terminate()
    assert child.wait(30) in (0, -15)


@pytest.fixture
async def client(receiver: str) -> AsyncIterator[httpx.AsyncClient]:
    async def answers() -> bool:
        try:
            return (await opened.get("/sessions/x")).is_success
        except httpx.TransportError:
            return False

    async with httpx.AsyncClient(base_url=receiver, trust_env=False) as opened:
        await eventually(answers, timeout_s=READY_TIMEOUT_S)
        yield opened


async def post(
    receiver: str,
    sequence: int,
    *,
    event_id: UUID | None = None,
    key: str = SIGNING_KEY,
    age: timedelta = timedelta(),
    client: str | None = None,
) -> int | None:
    """Send an event as the callback worker does; return the answer's status."""

    def clock() -> datetime:
        return now_utc() - age

    data = {"sessionId": SESSION, "sequence": sequence, "status": f"after {sequence}"}
    attempt = Attempt(
        callback_id=uuid4(), event_id=event_id or uuid4(), number=1, client=client,
        url=f"{receiver}/callbacks", destination="x",
        body=orjson.dumps({"type": "session.completed", "timestamp": "2026-05-04T12:00:00Z", "data": data}).decode(),
        expires_at=now_utc(), leased_until=now_utc(),
    )  # fmt: skip
    policy, lookup = DestinationPolicy(AddressPolicy((ip_network("127.0.0.0/8"),))), Lookup()
    async with Sender(keys=[parse_key(key)], policy=policy, resolve=lookup, timeout_s=5, clock=clock) as sender:
        result = await sender.send(attempt)
    lookup.close()
    return result.status_code


async def test_the_example_takes_each_event_once_and_keeps_the_newest(receiver: str, client: httpx.AsyncClient) -> None:
    """A retry that was overtaken is answered 204, and changes nothing."""
    again = uuid4()
    for sequence, event_id in ((1, uuid4()), (3, again), (2, uuid4()), (3, again)):
        assert await post(receiver, sequence, event_id=event_id) == 204
    assert (await client.get(f"/sessions/{SESSION}")).json() == {
        "sessionId": SESSION, "sequence": 3, "status": "after 3", "type": "session.completed",
    }  # fmt: skip


async def test_the_example_takes_only_what_was_signed_lately_with_a_secret_of_its_own(
    receiver: str, client: httpx.AsyncClient
) -> None:
    """The old secret still counts; a stranger's does not, nor does what somebody recorded and plays again."""
    assert await post(receiver, 4, key=OTHER_KEY) == 204
    assert await post(receiver, 5, key="whsec_" + "c3RyYW5nZXI" * 4) == 401
    assert await post(receiver, 6, age=timedelta(minutes=6)) == 401
    unsigned = await client.post("/callbacks", json={"type": "x", "data": {"sessionId": SESSION, "sequence": 9}})
    assert unsigned.status_code == 401
    assert (await client.get(f"/sessions/{SESSION}")).json()["sequence"] == 4


async def test_listen_shows_and_verifies_what_arrives() -> None:
    """With the client's own key, out of the masters; it answers as it was told, and says what came before."""
    port, again = free_ports(1)[0], uuid4()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "listen", "--port", str(port), "--client", "app", "--status", "503",
        cwd=REPOSITORY, env={**os.environ, "CALLBACK_SIGNING_KEYS": f"{SIGNING_KEY},{OTHER_KEY}"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    async with asyncio.timeout(READY_TIMEOUT_S):
        assert f"http://127.0.0.1:{port}/callback" in (await child.stdout.readline()).decode()
        url = f"http://127.0.0.1:{port}"
        assert await post(url, 2, event_id=again, client="app") == 503
        assert await post(url, 2, event_id=again, client="app") == 503
        assert await post(url, 1, client="app") == 503
        assert await post(url, 3, client="other") == 503
        child.send_signal(signal.SIGINT)
        said = (await child.stdout.read()).decode()
        assert await child.wait() == 0
    heads = [line for line in said.splitlines() if "session.completed  " in line]
    assert ["verified" in line for line in heads] == [True, True, True, False]
    assert "WRONG SIGNATURE" in heads[3]
    assert "attempt 2" in heads[1]
    assert "older than sequence 2" in heads[2]
    assert f"webhook-id {again}" in said
    assert '"sequence": 2' in said

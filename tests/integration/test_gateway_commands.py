"""The gateway process on a real broker: what it acknowledges lies in the queue, as the session worker expects it."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from ops.local_stack.processes import Name, Process, Processes
from shared.topology import SESSION_COMMANDS
from tests.patience import PATIENT, PATIENT_CLIENT_S
from tests.unit.gateway.fakes import BODIES, PATHS, REQUEST_BODY, SESSION_ID
from tests.unit.gateway.test_acknowledgements import SEED_REQUEST_ANSWER
from tests.unit.gateway.test_bad_input import problem
from tests.wire import Wire

CALLS = 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(processes: Processes) -> Process:
    """One gateway for the module; no worker empties the queue."""
    return await processes.start(Name.GATEWAY, port=None, **PATIENT)


@pytest.fixture
async def client(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENT_CLIENT_S, trust_env=False) as opened:
        yield opened


async def test_an_acknowledged_request_lies_in_the_workers_queue(client: httpx.AsyncClient, wire: Wire) -> None:
    """The seed's answer to the seed's call; the message is persistent and carries every property of the contract."""
    answer = await client.post(PATHS["request"], json=REQUEST_BODY)
    assert (answer.status_code, answer.content) == (200, SEED_REQUEST_ANSWER)
    message = await wire.get(SESSION_COMMANDS)
    request_id = answer.headers["location"].rpartition("/")[2]
    assert json.loads(message.body) == REQUEST_BODY | {"requestId": request_id}
    assert (message.message_id, message.correlation_id) == (request_id, request_id)
    assert (message.type, message.routing_key) == ("session.request.v1", "session.request.v1")
    assert (message.exchange, message.content_type) == ("charging.commands", "application/json")
    assert message.delivery_mode == 2
    assert message.headers.items() >= {"client": "anonymous", "privileged": True}.items()
    assert message.timestamp is not None
    assert abs(datetime.now(UTC) - message.timestamp) < timedelta(minutes=1)
    assert "server" not in answer.headers


@pytest.mark.parametrize("name", ["start", "stop", "cancel"])
async def test_each_command_has_its_type_and_names_its_session(
    client: httpx.AsyncClient, wire: Wire, name: str
) -> None:
    """Correlation is the session: the given one, or the new one that the message id names."""
    answer = await client.post(PATHS[name], json=BODIES[name])
    message = await wire.get(SESSION_COMMANDS)
    session_id = answer.json()["sessionId"]
    assert answer.status_code == 202
    assert message.type == f"session.{name}.v1"
    assert message.correlation_id == session_id == json.loads(message.body)["sessionId"]
    assert (message.message_id == session_id) is (name == "start")
    assert UUID(message.message_id)
    assert session_id == SESSION_ID or name == "start"


async def test_many_calls_at_once_are_as_many_messages(client: httpx.AsyncClient, wire: Wire) -> None:
    """Every acknowledgement is a message of its own in the queue, none is lost or doubled."""
    calls = [client.post(PATHS["start"], json=BODIES["start"], timeout=PATIENT_CLIENT_S) for _ in range(CALLS)]
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {202}
    got = {(await wire.get(SESSION_COMMANDS)).message_id for _ in range(CALLS)}
    assert len(got) == CALLS
    assert got == {answer.json()["sessionId"] for answer in answers}


async def test_what_is_not_http_gets_a_problem_too(gateway: Process) -> None:
    """The server answers this below the application."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"nonsense\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400


async def test_a_body_that_never_ends_is_cut_at_the_limit(client: httpx.AsyncClient) -> None:
    """Chunks without a length: 413 as soon as it is too much, however much would follow."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield b" " * 1024

    headers = {"content-type": "application/json"}
    problem(await client.post(PATHS["start"], content=endless(), headers=headers), 413, "body-too-large")

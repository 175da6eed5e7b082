"""The main job with all processes: every acknowledged request becomes one row and one verified callback."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from gateway.publishing import PUBLISH_TIMEOUT_S
from ops.local_stack import Server, Servers
from ops.local_stack.processes import Name, Process, Processes
from ops.receiver import Callback, Receiver
from tests.patience import PATIENT, PATIENT_CLIENT_S
from tests.servers import House
from tests.wire import eventually

REQUEST_COUNT = 1000
CONNECTIONS = 32
# A killed broker has to start again first.
ACKNOWLEDGED_S = 120
# Recovery of a killed process or broker takes seconds, and an attempt that a crash left open waits for its lease.
ALL_DELIVERED_S = 120
BRISK = {"CALLBACK_TIMEOUT_S": "5", "CALLBACK_RETRY_SCHEDULE_S": "0,1,1,1,1"}
# A confirm may be late where the broker's disk is busy with other things; that is no refusal yet.
ENVIRONMENTS: dict[Name, Any] = {Name.GATEWAY: PATIENT, Name.SESSION_WORKER: {}, Name.CALLBACK_WORKER: BRISK}

SEED_REQUEST = {
    "stationId": "9673200c-05a1-4b2d-aa4c-9deb130981a2",
    "driverId": "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL",
}
SEED_ACKNOWLEDGEMENT = b"""{
  "status": "acknowledged",
  "message": "Charging Session request received"
}"""
SEED_START = {"chargerId": "CHARGER-001", "metadata": {"location": "Station A", "connectorType": "CCS"}}
SEED_STARTED = """{
  "success": true,
  "sessionId": "%s",
  "chargerId": "CHARGER-001",
  "message": "Charging session started successfully"
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(processes: Processes) -> dict[Name, Process]:
    """One process of each kind; the lease is short so that crashed attempts are taken over within the test."""
    launched = {name: processes.launch(name, port=None, **ENVIRONMENTS[name]) for name in Name}
    for process in launched.values():
        await process.ready()
    return launched


@pytest.fixture
async def client(running: dict[Name, Process]) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(
        base_url=running[Name.GATEWAY].url, limits=limits, timeout=PATIENT_CLIENT_S, trust_env=False
    ) as opened:
        yield opened


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(house.database_url, min_size=1, max_size=2) as pool:
        yield pool


async def test_the_seeds_calls_answer_with_the_seeds_bodies(
    client: httpx.AsyncClient, receiver: Receiver, database: asyncpg.Pool
) -> None:
    """Byte for byte apart from ids; then the callback, the decision, the session, the stop, the final row."""
    asked = await client.post("/api/charging-session-requests", json=SEED_REQUEST | {"callbackUrl": receiver.url("a")})
    assert (asked.status_code, asked.content) == (200, SEED_ACKNOWLEDGEMENT)
    [callback] = await receiver.wait_for(lambda callback: callback.path == "/a")
    assert callback.verified
    assert (callback.type, callback.data["decision"]) == ("request.decided", "allowed")
    request = (await client.get(asked.headers["location"])).json()
    assert request | {"sequence": 1} == callback.data
    session = (await client.get(f"/api/v1/session/{request['sessionId']}")).json()
    assert (session["status"], session["stationId"]) == ("IN_PROGRESS", SEED_REQUEST["stationId"])

    started = await client.post("/api/v1/session/start", json=SEED_START | {"callbackUrl": receiver.url("b")})
    session_id = started.headers["location"].rpartition("/")[2]
    assert (started.status_code, started.text) == (202, SEED_STARTED % session_id)
    [callback] = await receiver.wait_for(lambda callback: callback.path == "/b")
    assert (callback.verified, callback.type, callback.data["metadata"]) == (
        True,
        "session.started",
        SEED_START["metadata"],
    )
    listed = (await client.get("/api/v1/session", params={"chargerId": "CHARGER-001"})).json()
    assert [item["sessionId"] for item in listed["items"]] == [session_id]

    stopped = await client.post(
        "/api/v1/session/stop", json={"sessionId": session_id, "energyKwh": 12.34, "finalCost": 4.5}
    )
    assert stopped.status_code == 202
    told = await receiver.wait_for(lambda callback: callback.path == "/b", count=3)
    # Each is a delivery of its own: they may overtake one another, and the sequence says what came first.
    callbacks = sorted(told, key=lambda callback: int(callback.data["sequence"]))
    assert [callback.type for callback in callbacks[1:]] == ["session.completed", "payment.link_created"]
    assert callbacks[-1].verified
    read = (await client.get(f"/api/v1/session/{session_id}")).json()
    assert read | {"sequence": 3} == callbacks[-1].data
    row = await database.fetchrow('SELECT status, "finalCost" FROM charging_sessions WHERE id = $1', UUID(session_id))
    assert row is not None
    assert (row["status"], str(row["finalCost"])) == ("COMPLETED", "4.50")


class Load:
    """A client that repeats what was not acknowledged, as the API asks it to: same key, same body."""

    def __init__(self, client: httpx.AsyncClient, receiver: Receiver) -> None:
        self.name = uuid4().hex[:8]
        self.acknowledged: set[str] = set()
        self.refused: Counter[int] = Counter()
        self.took_s: list[float] = []
        self._client = client
        self._receiver = receiver
        self._numbers = iter(range(REQUEST_COUNT))

    async def run(self, halfway: Callable[[], Awaitable[None]]) -> None:
        """Send all; `halfway` runs beside the second half."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(self._send())
            await eventually(self._is_half_done, timeout_s=ACKNOWLEDGED_S)
            await halfway()

    async def _is_half_done(self) -> bool:
        return len(self.acknowledged) >= REQUEST_COUNT // 2

    async def _send(self) -> None:
        for number in self._numbers:
            body = {"stationId": f"{self.name}-{number}", "driverId": "D", "callbackUrl": self._receiver.url(self.name)}
            key = f"{self.name}-{number}"
            async with asyncio.timeout(ACKNOWLEDGED_S):
                while not await self._acknowledges(body, key):
                    await asyncio.sleep(0.1)

    async def _acknowledges(self, body: dict[str, str], key: str) -> bool:
        began = time.monotonic()
        try:
            answer = await self._client.post(
                "/api/charging-session-requests", json=body, headers={"Idempotency-Key": key}
            )
        except httpx.TransportError:
            return False
        self.took_s.append(time.monotonic() - began)
        if answer.status_code == 200:
            self.acknowledged.add(answer.headers["location"].rpartition("/")[2])
            return True
        assert answer.status_code == 503, answer.text
        self.refused[answer.status_code] += 1
        return False


async def nothing() -> None:
    """The undisturbed run."""


async def assert_it_all_adds_up(load: Load, receiver: Receiver, database: asyncpg.Pool) -> None:
    """As many rows and verified callbacks as acknowledgements; a callback came twice only where the log says why."""
    assert len(load.acknowledged) == REQUEST_COUNT
    delivered = await receiver.wait_for(first_of_each(), count=REQUEST_COUNT, timeout_s=ALL_DELIVERED_S)
    assert {callback.data["requestId"] for callback in delivered} == load.acknowledged
    assert all(callback.verified for callback in receiver.callbacks)
    assert {callback.data["decision"] for callback in delivered} == {"allowed"}
    rows = await database.fetch('SELECT id, status FROM charging_sessions WHERE "stationId" LIKE $1', f"{load.name}-%")
    assert {str(row["id"]) for row in rows} == load.acknowledged
    assert len(rows) == REQUEST_COUNT
    ambiguous = await database.fetchval(
        """SELECT count(*) FROM callback_attempts a JOIN callback_deliveries d ON d.id = a."callbackId"
           WHERE d.url = $1 AND a.outcome = 'ambiguous'""",
        receiver.url(load.name),
    )
    assert len(receiver.callbacks) - REQUEST_COUNT <= ambiguous
    await eventually(lambda: _no_delivery_waits(database), timeout_s=ALL_DELIVERED_S)


async def _no_delivery_waits(database: asyncpg.Pool) -> bool:
    return not await database.fetchval("SELECT count(*) FROM callback_deliveries WHERE state <> 'DELIVERED'")


def first_of_each() -> Callable[[Callback], bool]:
    """True for one callback per event id, whichever attempt arrived first."""
    owner: dict[str, int] = {}
    return lambda callback: owner.setdefault(callback.id, id(callback)) == id(callback)


async def test_a_thousand_requests_make_a_thousand_rows_and_verified_callbacks(
    client: httpx.AsyncClient, receiver: Receiver, database: asyncpg.Pool
) -> None:
    load = Load(client, receiver)
    await load.run(nothing)
    await assert_it_all_adds_up(load, receiver, database)
    assert len(receiver.callbacks) == REQUEST_COUNT
    assert not load.refused
    # A gateway as shipped gives up on a confirm after this; a moment of a busy disk is not what most calls meet.
    assert median(load.took_s) < PUBLISH_TIMEOUT_S


@pytest.mark.parametrize("name", [Name.SESSION_WORKER, Name.CALLBACK_WORKER])
async def test_a_worker_killed_in_the_middle_loses_nothing(
    name: Name,
    running: dict[Name, Process],
    processes: Processes,
    client: httpx.AsyncClient,
    receiver: Receiver,
    database: asyncpg.Pool,
) -> None:
    """kill -9, then a new process: G1, G2, G3, G4 and G6."""

    async def kill_and_replace() -> None:
        await running[name].kill()
        running[name] = await processes.start(name, port=None, **ENVIRONMENTS[name])

    load = Load(client, receiver)
    await load.run(kill_and_replace)
    await assert_it_all_adds_up(load, receiver, database)


@pytest.mark.parametrize("server", [Server.RABBITMQ, Server.POSTGRES])
async def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    server: Server, servers: Servers, running: dict[Name, Process], client: httpx.AsyncClient,
    receiver: Receiver, database: asyncpg.Pool,
) -> None:  # fmt: skip
    """G2: acknowledged means on disk; while Postgres is away the gateway acknowledges as ever.

    `make faults` restarts them as well, and breaks them in other ways.
    """

    async def cycle() -> None:
        await asyncio.to_thread(servers.kill, server)
        await asyncio.to_thread(servers.start, server)

    load = Load(client, receiver)
    await load.run(cycle)
    await assert_it_all_adds_up(load, receiver, database)
    assert server is Server.RABBITMQ or not load.refused
    for process in running.values():
        await process.ready()


async def test_sigterm_under_load_drains_every_process_with_exit_code_0(
    running: dict[Name, Process], receiver: Receiver, client: httpx.AsyncClient
) -> None:
    for number in range(50):
        body = {"stationId": f"T-{uuid4()}-{number}", "driverId": "D", "callbackUrl": receiver.url()}
        assert (await client.post("/api/charging-session-requests", content=json.dumps(body), headers={
            "Content-Type": "application/json"})).status_code == 200  # fmt: skip
    codes = await asyncio.gather(*(process.stop() for process in running.values()))
    assert codes == [0, 0, 0]

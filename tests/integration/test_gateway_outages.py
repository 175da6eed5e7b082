"""The gateway while the broker or the database is down or stuck: an answer in time, always, and the true one."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.database import READ_TIMEOUT_S
from ops.local_stack.processes import Name, Process, Processes
from shared.topology import SESSION_COMMANDS
from tests.proxy import Proxy
from tests.servers import House
from tests.unit.gateway.fakes import BODIES, PATHS
from tests.unit.gateway.test_bad_input import problem
from tests.wire import eventually, open_wire

# The promise is 503 within 2 s. Where other tests run as well, what hangs is what takes longer than this.
LIMIT_S = 5.0
READ_LIMIT_S = 5.0


@pytest.fixture
async def broker(house: House) -> AsyncIterator[Proxy]:
    async with Proxy(house.amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def database(house: House) -> AsyncIterator[Proxy]:
    async with Proxy(house.database_url) as proxy:
        yield proxy


@pytest.fixture
async def gateway(processes: Processes, broker: Proxy, database: Proxy) -> AsyncIterator[Process]:
    started = await processes.start(Name.GATEWAY, AMQP_URL=broker.url, DATABASE_URL=database.url)
    yield started
    broker.restore()
    database.restore()
    assert await started.stop() == 0


@pytest.fixture
async def client(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as opened:
        yield opened


async def start(client: httpx.AsyncClient, **headers: str) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = await client.post(PATHS["start"], json=BODIES["start"], headers=headers)
    return answer, time.monotonic() - began


async def test_a_broker_that_is_down_is_a_503_and_an_unready_gateway(client: httpx.AsyncClient, broker: Proxy) -> None:
    """Within 2 s; alive all the while; it acknowledges again by itself once the broker is back."""
    assert (await start(client))[0].status_code == 202
    broker.cut()

    async def is_unready() -> bool:
        return (await client.get("/readyz")).status_code == 503

    await eventually(is_unready)
    answer, took_s = await start(client)
    problem(answer, 503, "broker-unavailable")
    assert "retry-after" in answer.headers
    assert took_s < LIMIT_S
    assert (await client.get("/livez")).status_code == 200
    broker.restore()

    async def is_acknowledged() -> bool:
        return (await start(client))[0].status_code == 202

    await eventually(is_acknowledged)
    assert not await is_unready()


async def test_a_broker_that_does_not_confirm_is_an_unknown_outcome(
    client: httpx.AsyncClient, broker: Proxy, house: House
) -> None:
    """Within 2 s, for many at once; the same key later gives the id of the first try, whichever of both arrived."""
    async with open_wire(house.amqp_url) as wire:
        while await wire.depth(SESSION_COMMANDS):
            await wire.get(SESSION_COMMANDS)
        broker.freeze()
        results = await asyncio.gather(*(start(client, **{"Idempotency-Key": f"key-{n}"}) for n in range(20)))
        for answer, took_s in results:
            problem(answer, 503, "outcome-unknown")
            assert took_s < LIMIT_S
        broker.restore()

        async def acknowledged() -> httpx.Response | None:
            answer, _ = await start(client, **{"Idempotency-Key": "key-0"})
            return answer if answer.status_code == 202 else None

        again = await eventually(acknowledged, timeout_s=20)
        assert again is not None
        ids = {(await wire.get(SESSION_COMMANDS)).message_id for _ in range(await wire.depth(SESSION_COMMANDS))}
        assert again.json()["sessionId"] in ids
        assert len(ids) <= 20


async def test_commands_are_taken_while_the_database_is_stuck(client: httpx.AsyncClient, database: Proxy) -> None:
    """The acknowledgement does not need Postgres; a read says so in time, also when all connections are stuck."""
    assert (await client.get("/api/v1/session")).status_code == 200
    database.freeze()
    answer, took_s = await start(client)
    assert answer.status_code == 202
    # Had it asked the database, it would have waited for so long.
    assert took_s < READ_TIMEOUT_S
    began = time.monotonic()
    reads = await asyncio.gather(*(client.get("/api/v1/session", timeout=10) for _ in range(30)))
    assert time.monotonic() - began < READ_LIMIT_S
    for read in reads:
        problem(read, 503, "database-unavailable")
    assert (await client.get("/readyz")).status_code == 200
    database.restore()

    async def is_readable() -> bool:
        return (await client.get("/api/v1/session")).status_code == 200

    await eventually(is_readable, timeout_s=20)


async def test_a_restart_of_the_database_is_not_seen_by_the_next_reader(
    client: httpx.AsyncClient, database: Proxy
) -> None:
    """Pooled connections that died are replaced within the read; while it is down a read is a 503 at once."""
    reads = await asyncio.gather(*(client.get("/api/v1/session") for _ in range(5)))
    assert {read.status_code for read in reads} == {200}
    database.cut()
    problem(await client.get("/api/v1/session"), 503, "database-unavailable")
    assert (await start(client))[0].status_code == 202
    database.restore()
    assert (await client.get("/api/v1/session")).status_code == 200


async def test_a_stuck_database_does_not_hold_up_the_drain(processes: Processes, database: Proxy) -> None:
    """Connections that nobody answers on are dropped: the exit status is 0, within seconds."""
    gateway = await processes.start(Name.GATEWAY, DATABASE_URL=database.url)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        assert (await client.get("/api/v1/session")).status_code == 200
        database.freeze()
        problem(await client.get("/api/v1/session"), 503, "database-unavailable")
    began = time.monotonic()
    assert await gateway.stop() == 0
    assert time.monotonic() - began < 10


async def test_a_missing_database_is_a_503_not_a_fault_of_ours(processes: Processes, house: House) -> None:
    """The server answers, but there is no such database (or password): still not a 500."""
    gateway = await processes.start(Name.GATEWAY, DATABASE_URL=house.database_url + "_missing")
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get("/api/v1/session")
    assert answer.status_code == 503
    assert await gateway.stop() == 0

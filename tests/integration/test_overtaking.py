"""Commands that overtake the start of their session: they wait for it, through outages and undecided requests too."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from aiohttp import web

from ops.local_stack.processes import Process, Processes
from session_worker.sweeper import SWEEP_EVERY_S
from tests.proxy import Proxy
from tests.servers import House
from tests.wire import Wire, eventually

Publish = Callable[..., Awaitable[str]]

AN_HOUR = timedelta(hours=1)
# What must not happen in it would.
SOME_SWEEPS_S = 3 * SWEEP_EVERY_S


@pytest.fixture
async def worker(processes: Processes) -> Process:
    return await processes.start("session_worker")


@pytest.fixture
def publish(wire: Wire) -> Publish:
    """Publishes a command of a session that was accepted so long ago."""

    async def published(
        kind: str, session_id: str, *, ago: timedelta = timedelta(0), now: datetime | None = None
    ) -> str:
        body = {"sessionId": session_id} | ({"chargerId": session_id} if kind == "start" else {})
        return str(await wire.publish(f"session.{kind}.v1", body, timestamp=(now or datetime.now(UTC)) - ago))

    return published


async def is_cancelled(wire: Wire, session_id: str) -> None:
    """Its first event says that it was stopped before it began."""
    event = await wire.event(lambda data: data["sessionId"] == session_id)
    assert (event["type"], event["reason"]) == ("session.cancelled", "STOPPED_BEFORE_START")


async def expire(database: asyncpg.Connection, message_id: str, *, ago: timedelta = timedelta(0)) -> None:
    """End its time, so long ago, as soon as it is parked, by moving the row."""

    async def moved() -> bool:
        query = 'UPDATE parked_commands SET "expiresAt" = now() - CAST($2 AS interval) WHERE "messageId" = $1'
        return str(await database.execute(query, UUID(message_id), ago)) == "UPDATE 1"

    await eventually(moved)


def is_parked(database: asyncpg.Connection, message_id: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        query = 'SELECT count(*) FROM parked_commands WHERE "messageId" = $1'
        return bool(await database.fetchval(query, UUID(message_id)))

    return look


async def test_commands_that_waited_out_an_outage_may_still_overtake_their_start(
    worker: Process, wire: Wire, publish: Publish
) -> None:
    """All of them are old then, and one worker's stop may be read while another still has the start."""
    session_id = str(uuid4())
    await publish("stop", session_id, ago=AN_HOUR)
    await publish("start", session_id, ago=AN_HOUR)
    await is_cancelled(wire, session_id)
    assert await worker.stop() == 0


async def test_an_old_stop_whose_session_never_comes_is_refused_soon(
    worker: Process, wire: Wire, publish: Publish
) -> None:
    stop_id = await publish("stop", str(uuid4()), ago=AN_HOUR)
    # After five seconds and a sweep. Left to be swept up it would come after 18 s, taken for an outage's after 25.
    event = await wire.event(lambda data: data.get("messageId") == stop_id, timeout_s=15)
    assert (event["type"], event["reason"]) == ("session.command_rejected", "UNKNOWN_SESSION")
    counted = 'voltline_commands_total{outcome="REFUSED",reason="UNKNOWN_SESSION",type="session.stop.v1"} 1.0'
    async with httpx.AsyncClient(base_url=worker.url, timeout=30) as client:
        assert counted in (await client.get("/metrics")).text
    assert await worker.stop() == 0


async def test_a_stop_long_after_the_start_that_it_overtook_completes_the_session(
    worker: Process, wire: Wire, publish: Publish
) -> None:
    """It was charged, and is paid for."""
    session_id, now = str(uuid4()), datetime.now(UTC)
    await publish("stop", session_id, ago=timedelta(minutes=5), now=now)
    await publish("start", session_id, ago=AN_HOUR, now=now)
    completed = await wire.event(lambda data: data["sessionId"] == session_id and data["type"] != "session.started")
    assert (completed["type"], completed["sequence"]) == ("session.completed", 2)
    lasted = datetime.fromisoformat(completed["endedAt"]) - datetime.fromisoformat(completed["startedAt"])
    assert abs(lasted - timedelta(minutes=55)) <= timedelta(seconds=2)
    assert await worker.stop() == 0


async def test_a_stop_that_names_a_cost_completes_the_session_that_it_overtook(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """Whoever knows the cost knows that there is something to pay."""
    session_id = str(uuid4())
    stop_id = await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "5.00"})
    await eventually(is_parked(database, str(stop_id)))
    await wire.publish("session.start.v1", {"sessionId": session_id, "chargerId": session_id})
    completed = await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == "session.completed")
    assert (completed["finalCost"], completed["payment"]["amount"], completed["sequence"]) == ("5.00", "5.00", 2)
    assert completed["startedAt"] == completed["endedAt"]
    assert await database.fetchval('SELECT NOT "needsReview" FROM charging_sessions WHERE id = $1', UUID(session_id))
    assert await worker.stop() == 0


async def test_what_was_parked_when_all_workers_went_waits_on_when_one_comes(
    processes: Processes, wire: Wire, database: asyncpg.Connection, publish: Publish
) -> None:
    """Its time is over, and the start may still be in the queue."""
    session_id = str(uuid4())
    first = await processes.start("session_worker")
    await expire_by_dying(first, database, await publish("stop", session_id))
    second = await processes.start("session_worker")
    await asyncio.sleep(SOME_SWEEPS_S)
    await publish("start", session_id)
    await is_cancelled(wire, session_id)
    assert await second.stop() == 0


async def expire_by_dying(worker: Process, database: asyncpg.Connection, message_id: str) -> None:
    """Its last worker goes before its time is over."""

    await eventually(is_parked(database, message_id))
    assert await worker.stop() == 0
    await expire(database, message_id, ago=AN_HOUR)


async def test_after_an_outage_of_the_database_nothing_is_refused_before_all_workers_are_back(
    house: House, processes: Processes, wire: Wire, database: asyncpg.Connection, publish: Publish
) -> None:
    """The start may be in the hands of one that waits for its next try."""
    session_id = str(uuid4())
    async with Proxy(house.database_url) as proxy:
        worker = await processes.start("session_worker", DATABASE_URL=proxy.url)
        stop_id = await publish("stop", session_id)
        await eventually(is_parked(database, stop_id))
        proxy.cut()
        await eventually(lambda: _says(worker, "sweep_failed"))
        proxy.restore()
        await expire(database, stop_id)
        handled = await wire.publish("session.start.v1", {"chargerId": f"H-{uuid4()}"})
        await wire.event(lambda data: data["sessionId"] == handled, timeout_s=20)
        await asyncio.sleep(SOME_SWEEPS_S)
        await publish("start", session_id)
        await is_cancelled(wire, session_id)
        assert await worker.stop() == 0


async def _says(worker: Process, word: str) -> bool:
    return word in worker.log.read_text()


async def test_a_stop_waits_for_as_long_as_its_request_does(
    processes: Processes, wire: Wire, database: asyncpg.Connection, publish: Publish
) -> None:
    """The verdict brings the session, however late."""
    verdict = asyncio.Event()

    async def think(_: web.Request) -> web.Response:
        await verdict.wait()
        return web.json_response({"allowed": "ALLOWED"})

    application = web.Application()
    application.router.add_post("/", think)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    worker = await processes.start(
        "session_worker", AUTHORIZATION="http", AUTHORIZATION_TIMEOUT_S="60",
        AUTHORIZATION_URL=f"http://127.0.0.1:{runner.addresses[0][1]}/",
    )  # fmt: skip
    try:
        body = {"stationId": f"S-{uuid4()}", "driverId": "D", "callbackUrl": "https://subscriber.example/x"}
        request_id = str(await wire.publish("session.request.v1", body))
        await expire(database, await publish("stop", request_id))
        await asyncio.sleep(SOME_SWEEPS_S)
        verdict.set()
        ended = await wire.event(lambda data: data["sessionId"] == request_id and data["type"] == "session.cancelled")
        assert ended["reason"] == "STOPPED_BEFORE_START"
        assert await worker.stop() == 0
    finally:
        await runner.cleanup()

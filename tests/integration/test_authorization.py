"""Authorization with real processes: by the tables, and by a service that answers, hangs, breaks and comes late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import web

from ops.local_stack.processes import Processes
from session_worker.authorizer import BREAKER_FAILURES
from tests.wire import COMMANDS, Wire, eventually

CALLBACK = "https://subscriber.example/x"
TIMEOUT_S = 1.5
# Room for a start beside a request that waits for all of it.
ROOMY_TIMEOUT_S = 6
Answer = Callable[[dict[str, Any]], Awaitable[web.Response]]


class Service:
    """An authorization service that answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = self.allow
        self.url = ""

    async def allow(self, _: dict[str, Any]) -> web.Response:
        return web.json_response({"allowed": "ALLOWED"})

    async def take(self, request: web.Request) -> web.Response:
        question = await request.json()
        self.asked.append(question)
        return await self.answer(question)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    opened = Service()
    application = web.Application()
    application.router.add_post("/", opened.take)
    # A service that hangs shall not make the test wait for it.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    opened.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield opened
    await runner.cleanup()


async def ask(wire: Wire, driver: str = "driver-1", station: str | None = None) -> str:
    body = {"stationId": station or f"S-{uuid4()}", "driverId": driver, "callbackUrl": CALLBACK}
    return str(await wire.publish("session.request.v1", body))


async def decision_of(wire: Wire, request_id: str, *, timeout_s: float = 30) -> dict[str, Any]:
    return await wire.event(
        lambda data: data.get("requestId") == request_id and data["type"] == "request.decided", timeout_s=timeout_s
    )


async def outcome(database: asyncpg.Connection, message_id: str) -> tuple[str, str | None] | None:
    row = await database.fetchrow('SELECT outcome, reason FROM inbox WHERE "messageId" = $1', UUID(message_id))
    return None if row is None else (row["outcome"], row["reason"])


async def test_the_tables_of_an_operator_decide(processes: Processes, wire: Wire, database: asyncpg.Connection) -> None:
    """Set, used in the next batch, changed, removed: an unknown driver is invalid, an unknown station not allowed."""
    worker = await processes.start("session_worker", AUTHORIZATION="acl")

    async def operate(type: str, body: dict[str, Any], *, exchange: str = COMMANDS) -> str:
        return str(await wire.publish(type, body, exchange=exchange))

    unknown = await decision_of(wire, await ask(wire, "anna", "depot"))
    assert (unknown["decision"], unknown["reason"], unknown["sessionId"]) == ("invalid", "UNKNOWN_DRIVER", None)
    await operate("session.set_driver.v1", {"driverId": "anna", "status": "ALLOWED", "stations": ["depot"]})
    nowhere = await decision_of(wire, await ask(wire, "anna", "depot"))
    assert (nowhere["decision"], nowhere["reason"]) == ("not_allowed", "UNKNOWN_STATION")
    await operate("session.set_station.v1", {"stationId": "depot", "open": True})
    allowed = await decision_of(wire, await ask(wire, "anna", "depot"))
    assert (allowed["decision"], allowed["sessionId"]) == ("allowed", allowed["requestId"])
    elsewhere = await decision_of(wire, await ask(wire, "anna", "harbour"))
    assert elsewhere["reason"] == "NOT_ALLOWED"
    await operate("session.set_driver.v1", {"driverId": "anna", "status": "BLOCKED"})
    blocked = await decision_of(wire, await ask(wire, "anna", "depot"))
    assert blocked["reason"] == "BLOCKED"
    await operate("session.remove_driver.v1", {"driverId": "anna"})
    assert (await decision_of(wire, await ask(wire, "anna", "depot")))["decision"] == "invalid"
    partner = await operate(
        "session.set_driver.v1", {"driverId": "eve", "status": "ALLOWED"}, exchange="charging.partners"
    )
    refusal = await wire.event(lambda data: data.get("messageId") == partner)
    assert refusal["reason"] == "NOT_PRIVILEGED"
    assert await database.fetchval("SELECT count(*) FROM drivers") == 0
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    ("answer", "decision", "reason"),
    [
        ({"allowed": "ALLOWED"}, "allowed", None),
        ({"data": {"allowed": "NO_CREDIT"}}, "not_allowed", "NO_CREDIT"),
        (404, "invalid", "UNKNOWN_DRIVER"),
        (500, "unknown", "AUTHORIZATION_FAILED"),
        ("nonsense", "unknown", "AUTHORIZATION_FAILED"),
        ("hang", "unknown", "AUTHORIZATION_TIMEOUT"),
        ("drip", "unknown", "AUTHORIZATION_TIMEOUT"),
    ],
    ids=str,
)
async def test_a_service_decides_within_its_deadline(
    processes: Processes, wire: Wire, service: Service, database: asyncpg.Connection,
    answer: object, decision: str, reason: str | None,
) -> None:  # fmt: skip
    """A hanging service makes `unknown`, once; and starts go through at once all the while."""

    async def say(_: dict[str, Any]) -> web.Response:
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "drip":
            return web.Response(body=drip())
        if isinstance(answer, int):
            return web.Response(status=answer)
        return web.json_response(answer) if isinstance(answer, dict) else web.Response(text=str(answer))

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.1)

    service.answer = say
    settings: Any = {
        "AUTHORIZATION": "http",
        "AUTHORIZATION_URL": service.url,
        "AUTHORIZATION_TIMEOUT_S": str(ROOMY_TIMEOUT_S),
    }
    worker = await processes.start("session_worker", **settings)
    request_id = await ask(wire, "ben", "mall")
    if answer in ("hang", "drip"):
        started = await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
        await wire.event(lambda data: data["sessionId"] == started, timeout_s=ROOMY_TIMEOUT_S)
        assert await outcome(database, request_id) == ("PARKED", None)
    # Left behind by who decided it, it would be published 12 s after that.
    decided = await decision_of(wire, request_id, timeout_s=ROOMY_TIMEOUT_S + 10)
    assert (decided["decision"], decided["reason"]) == (decision, reason)
    assert await outcome(database, request_id) == ("APPLIED" if decision == "allowed" else "REFUSED", reason)
    assert service.asked[0] == {"requestId": request_id, "stationId": "mall", "driverId": "ben", "connectorId": None}
    if decided["sessionId"]:
        await wire.publish("session.stop.v1", {"sessionId": decided["sessionId"]})
    assert await worker.stop() == 0


async def test_nonsense_about_some_requests_leaves_the_next_its_verdict(
    processes: Processes, wire: Wire, service: Service
) -> None:
    """Only a service that is down is not asked for a while."""

    async def say(question: dict[str, Any]) -> web.Response:
        if question["driverId"] == "nobody":
            return web.Response(status=400)
        return await service.allow(question)

    service.answer = say
    worker = await processes.start("session_worker", AUTHORIZATION="http", AUTHORIZATION_URL=service.url)
    for _ in range(2 * BREAKER_FAILURES):
        assert (await decision_of(wire, await ask(wire, "nobody")))["decision"] == "unknown"
    assert (await decision_of(wire, await ask(wire)))["decision"] == "allowed"
    assert await worker.stop() == 0


async def test_answers_around_the_deadline_make_one_decision_each(
    processes: Processes, wire: Wire, service: Service, database: asyncpg.Connection
) -> None:
    """Answers just before, at and after the deadline, with two workers' sweepers: one event, one row, never both."""

    async def at_the_deadline(question: dict[str, Any]) -> web.Response:
        # From half a second before to a quarter after; it is asked a little later than the request was accepted.
        offset_s = (int(question["driverId"].rpartition("-")[2]) - 25) * 0.02
        await asyncio.sleep(TIMEOUT_S + offset_s)
        return web.json_response({"allowed": "ALLOWED"})

    service.answer = at_the_deadline
    settings: Any = {
        "AUTHORIZATION": "http",
        "AUTHORIZATION_URL": service.url,
        "AUTHORIZATION_TIMEOUT_S": str(TIMEOUT_S),
    }
    workers = [await processes.start("session_worker", **settings) for _ in range(2)]
    ids = await asyncio.gather(*(ask(wire, f"racer-{number}") for number in range(40)))
    for request_id in ids:
        await decision_of(wire, request_id)
    events = await wire.events(lambda data: data.get("requestId") in ids, count=40)
    assert len(events) == 40
    rows = await database.fetch(
        "SELECT r.id, r.decision, s.id AS session FROM charging_session_requests r "
        'LEFT JOIN charging_sessions s ON s."requestId" = r.id WHERE r.id = ANY($1)',
        [UUID(request_id) for request_id in ids],
    )
    told = {event["requestId"]: event["decision"] for event in events}
    for row in rows:
        assert told[str(row["id"])] == row["decision"]
        assert (row["session"] is not None) == (row["decision"] == "allowed")
    assert {"unknown"} <= set(told.values())
    for worker in workers:
        assert await worker.stop() == 0


async def test_a_worker_killed_while_the_service_thinks_leaves_the_request_to_others(
    processes: Processes, wire: Wire, service: Service, database: asyncpg.Connection
) -> None:
    """The request is pending in the database; whoever sweeps next adopts it, or its deadline decides it."""
    thinks = asyncio.Event()

    async def think_once(question: dict[str, Any]) -> web.Response:
        if len(service.asked) == 1:
            thinks.set()
            await asyncio.Event().wait()
        return await service.allow(question)

    service.answer = think_once
    settings: Any = {"AUTHORIZATION": "http", "AUTHORIZATION_URL": service.url, "AUTHORIZATION_TIMEOUT_S": "60"}
    victim = await processes.start("session_worker", **settings)
    request_id = await ask(wire)
    async with asyncio.timeout(30):
        await thinks.wait()
    await victim.kill()
    # Half its time is over, as if the victim had been dead for that long; its deadline stays.
    aged = await database.execute(
        """UPDATE charging_session_requests SET "createdAt" = "createdAt" - interval '31 s' WHERE id = $1""",
        UUID(request_id),
    )
    assert aged == "UPDATE 1"
    heir = await processes.start("session_worker", **settings)
    decided = await wire.event(lambda data: data.get("requestId") == request_id, timeout_s=45)
    assert decided["decision"] == "allowed"
    assert await heir.stop() == 0


async def test_meter_values_are_priced_by_the_tariff_of_the_start(
    processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """A tariff that changes later changes nothing; a value after the end makes an adjustment."""
    worker = await processes.start("session_worker")
    tariff = {"name": "fast", "currency": "EUR", "flat": "1", "perKwh": 0.5, "chargerIds": ["DC-1"]}
    await wire.publish("session.set_tariff.v1", tariff, exchange=COMMANDS)
    session_id = await wire.publish("session.start.v1", {"chargerId": "DC-1"})
    await wire.publish("session.set_tariff.v1", tariff | {"perKwh": 50}, exchange=COMMANDS)
    for wh, at in ((1000, "10:00"), (9000, "10:30"), (5000, "10:15"), (5000, "10:15")):
        body = {"sessionId": session_id, "meterWh": wh, "measuredAt": f"2026-05-04T{at}:00Z"}
        await wire.publish("session.meter.v1", body)
    await wire.publish("session.stop.v1", {"sessionId": session_id})
    done = await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == "session.completed")
    assert (done["energyKwh"], done["finalCost"], done["currency"]) == ("8", "5.00", "EUR")
    late = {"sessionId": session_id, "meterWh": 11000, "measuredAt": "2026-05-04T10:45:00Z"}
    await wire.publish("session.meter.v1", late)

    async def adjusted() -> asyncpg.Record | None:
        query = 'SELECT "energyKwh", cost FROM session_adjustments WHERE "sessionId" = $1'
        return await database.fetchrow(query, UUID(session_id))

    row = await eventually(adjusted)
    assert (str(row["energyKwh"]), str(row["cost"])) == ("10", "6.00")
    assert await worker.stop() == 0


async def test_a_session_without_a_sign_of_life_is_ended_for_review(
    processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    worker = await processes.start("session_worker")
    session_id = await wire.publish("session.start.v1", {"chargerId": f"Z-{uuid4()}"})
    await wire.event(lambda data: data["sessionId"] == session_id)
    await database.execute(
        """UPDATE charging_sessions SET "updatedAt" = now() - interval '25 hours' WHERE id = $1""", UUID(session_id)
    )
    ended = await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == "session.completed")
    assert (ended["reason"], ended["finalCost"]) == ("STALE", None)
    row = await database.fetchrow("SELECT * FROM charging_sessions WHERE id = $1", UUID(session_id))
    assert row is not None
    assert (row["needsReview"], row["reviewReason"]) == (True, "STALE")
    assert await worker.stop() == 0

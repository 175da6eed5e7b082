"""The session worker on a real broker and a real database."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from ops.local_stack import Server, Servers
from ops.local_stack.processes import Process, Processes
from session_worker import sweeper
from shared.ids import uuid7
from shared.topology import CALLBACK_EVENTS, SESSION_COMMANDS, dead_letter_queue
from tests.wire import COMMANDS, Wire, eventually

DEAD = dead_letter_queue(SESSION_COMMANDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(processes: Processes) -> Process:
    """One session worker for the module."""
    return await processes.start("session_worker")


async def session_row(database: asyncpg.Connection, session_id: str) -> asyncpg.Record | None:
    return await database.fetchrow("SELECT * FROM charging_sessions WHERE id = $1", UUID(session_id))


async def test_a_partner_publishes_a_start_as_it_would_post_it(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """Body, message_id and routing key are all that a partner needs."""
    message_id = await wire.publish("session.start.v1", {"chargerId": "P-1", "metadata": {"bay": [1, None]}})
    event = await wire.event(lambda data: data["sessionId"] == message_id)
    assert event["type"] == "session.started"
    row = await session_row(database, str(message_id))
    assert row is not None
    assert (row["chargerId"], row["status"], json.loads(row["metadata"])) == ("P-1", "IN_PROGRESS", {"bay": [1, None]})


async def test_metadata_and_money_survive_from_start_to_stop(worker: Process, wire: Wire) -> None:
    """A session that was read back from the database looks in its events as it did before."""
    session_id = await wire.publish("session.start.v1", {"chargerId": "P-2", "metadata": {"a": {"b": "ü"}}})
    await wire.event(lambda data: data["sessionId"] == session_id)
    await wire.publish("session.stop.v1", {"sessionId": session_id, "energyKwh": 12.34, "finalCost": "3.1"})
    event = await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == "session.completed")
    assert event["metadata"] == {"a": {"b": "ü"}}
    assert (event["energyKwh"], event["finalCost"], event["sequence"]) == ("12.34", "3.10", 2)


async def test_a_cost_that_no_column_holds_ends_the_session_for_review(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """By the tariff, by a named cost once it is rounded to yen, and by a late meter value: none is a dead letter."""
    chargers = [f"YEN-{uuid4()}" for _ in range(4)]
    tariff = {"name": "yen", "currency": "JPY", "perKwh": 1_000_000, "chargerIds": chargers}
    await wire.publish("session.set_tariff.v1", tariff, exchange=COMMANDS)
    ids = [str(await wire.publish("session.start.v1", {"chargerId": charger})) for charger in chargers]
    by_tariff, named, fitting, adjusted = ids
    await wire.publish("session.meter.v1", {"sessionId": adjusted, "meterWh": 0})
    await wire.publish("session.stop.v1", {"sessionId": by_tariff, "energyKwh": 100})
    await wire.publish("session.stop.v1", {"sessionId": named, "finalCost": "99999999.99"})
    await wire.publish("session.stop.v1", {"sessionId": fitting, "finalCost": "12"})
    await wire.publish("session.stop.v1", {"sessionId": adjusted})
    ends = await wire.events(lambda data: data["sessionId"] in ids and data["type"] == "session.completed", count=4)
    costs = {end["sessionId"]: end["finalCost"] for end in ends}
    assert costs == {by_tariff: None, named: None, fitting: "12.00", adjusted: "0.00"}
    for session_id, reason in ((by_tariff, "COST_TOO_HIGH"), (named, "COST_TOO_HIGH"), (fitting, None)):
        row = await session_row(database, session_id)
        assert row is not None
        assert (row["status"], row["reviewReason"], row["needsReview"]) == ("COMPLETED", reason, reason is not None)
    await wire.publish("session.meter.v1", {"sessionId": adjusted, "meterWh": 10**12})

    async def adjustment() -> asyncpg.Record | None:
        query = 'SELECT "energyKwh", cost, currency FROM session_adjustments WHERE "sessionId" = $1'
        return await database.fetchrow(query, UUID(adjusted))

    assert tuple(await eventually(adjustment)) == (10**9, None, "JPY")
    assert await wire.depth(DEAD) == 0


async def test_a_message_delivered_many_times_is_applied_once(worker: Process, wire: Wire) -> None:
    """G3: at once in one batch, and again later."""
    message_id = str(uuid4())
    body = {"chargerId": "P-3"}
    await asyncio.gather(*(wire.publish("session.start.v1", body, message_id=message_id) for _ in range(20)))
    await wire.event(lambda data: data["sessionId"] == message_id)
    await wire.publish("session.start.v1", body, message_id=message_id)
    await wire.publish("session.stop.v1", {"sessionId": message_id})
    await wire.event(lambda data: data["sessionId"] == message_id and data["type"] == "session.completed")
    assert len(await wire.events(lambda data: data["sessionId"] == message_id, count=2)) == 2


async def test_the_same_message_id_with_another_body_is_refused_and_changes_nothing(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """G3: the refusal is an event, once, however often the conflicting message comes."""
    message_id = str(uuid4())
    await wire.publish("session.start.v1", {"chargerId": "P-4"}, message_id=message_id)
    await wire.event(lambda data: data["sessionId"] == message_id)
    for _ in range(3):
        await wire.publish("session.start.v1", {"chargerId": "OTHER"}, message_id=message_id)
    last = await wire.publish("session.start.v1", {"chargerId": "P-4b"})
    await wire.event(lambda data: data["sessionId"] == last)
    refusals = await wire.events(lambda data: data.get("reason") == "IDEMPOTENCY_CONFLICT", count=1)
    assert [refusal["messageId"] for refusal in refusals] == [message_id]
    row = await session_row(database, message_id)
    assert row is not None
    assert row["chargerId"] == "P-4"


async def test_fifty_starts_on_one_charger_through_three_workers_leave_one_active(
    worker: Process, processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """One IN_PROGRESS, 49 refusals, 50 outcomes: locks and the unique index, not luck."""
    others = [await processes.start("session_worker") for _ in range(2)]
    ids = await asyncio.gather(*(wire.publish("session.start.v1", {"chargerId": "BUSY"}) for _ in range(50)))
    events = await wire.events(lambda data: data["sessionId"] in ids, count=50)
    assert len(events) == 50
    assert sorted(event["type"] for event in events) == ["session.command_rejected"] * 49 + ["session.started"]
    statuses = await database.fetch('SELECT status, reason FROM charging_sessions WHERE "chargerId" = $1', "BUSY")
    assert sorted(statuses) == [("CANCELLED", "CHARGER_BUSY")] * 49 + [("IN_PROGRESS", None)]
    for other in others:
        assert await other.stop() == 0


async def test_a_stop_that_overtakes_its_start_cancels_it_when_it_comes(worker: Process, wire: Wire) -> None:
    session_id = str(uuid4())
    stop_id = await wire.publish("session.stop.v1", {"sessionId": session_id})
    await wire.publish("session.start.v1", {"chargerId": "P-5", "sessionId": session_id})
    event = await wire.event(lambda data: data["sessionId"] == session_id)
    assert (event["type"], event["reason"], event["sequence"]) == ("session.cancelled", "STOPPED_BEFORE_START", 1)
    assert stop_id is not None


async def test_stops_that_race_their_starts_through_three_workers_all_end_right(
    worker: Process, processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """Whichever worker takes which first: every session ends, no stop stays parked."""
    others = [await processes.start("session_worker") for _ in range(2)]
    ids = [str(uuid4()) for _ in range(60)]
    publishes = [wire.publish("session.stop.v1", {"sessionId": session_id}) for session_id in ids]
    publishes += [
        wire.publish("session.start.v1", {"chargerId": f"R-{session_id}", "sessionId": session_id})
        for session_id in ids
    ]
    await asyncio.gather(*publishes)
    ends = ("session.cancelled", "session.completed")
    await wire.events(lambda data: data["sessionId"] in ids and data["type"] in ends, count=60, timeout_s=20)
    rows = await database.fetch("SELECT status FROM charging_sessions WHERE id = ANY($1)", [UUID(each) for each in ids])
    assert len(rows) == 60
    assert {row["status"] for row in rows} <= {"CANCELLED", "COMPLETED"}
    parked = 'SELECT count(*) FROM parked_commands WHERE "sessionId" = ANY($1)'
    assert await database.fetchval(parked, [UUID(each) for each in ids]) == 0
    for other in others:
        assert await other.stop() == 0


async def test_a_parked_stop_whose_session_never_comes_is_refused_in_the_end(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """G1: every command reaches one terminal outcome; here the clock is turned on by moving the row."""
    stop_id = await wire.publish("session.stop.v1", {"sessionId": str(uuid4())})
    query = 'UPDATE parked_commands SET "expiresAt" = now() WHERE "messageId" = $1'
    await eventually(lambda: _affected(database, query, UUID(stop_id)))
    event = await wire.event(lambda data: data.get("messageId") == stop_id)
    assert (event["type"], event["reason"]) == ("session.command_rejected", "UNKNOWN_SESSION")
    outcome = await database.fetchrow('SELECT outcome, reason FROM inbox WHERE "messageId" = $1', UUID(stop_id))
    assert outcome is not None
    assert tuple(outcome) == ("REFUSED", "UNKNOWN_SESSION")


async def _affected(database: asyncpg.Connection, query: str, *arguments: object) -> bool:
    return not str(await database.execute(query, *arguments)).endswith(" 0")


@pytest.mark.parametrize(
    ("type", "body", "message_id", "code"),
    [
        ("session.start.v1", b"{nope", "", "not_json"),
        ("session.start.v1", b'{"chargerId": 5}', "", "schema_violation"),
        ("session.unheard.v1", b"{}", "", "unknown_type"),
        ("session.start.v1", b'{"chargerId": "X"}', None, "no_message_id"),
        ("session.start.v1", b'{"chargerId": "' + b"x" * 70_000 + b'"}', "", "too_large"),
    ],
)
async def test_what_nobody_understands_goes_unchanged_to_the_dead_letters(
    worker: Process, wire: Wire, type: str, body: bytes, message_id: str | None, code: str
) -> None:
    sent_id = await wire.publish(
        type, body, message_id=message_id, headers={"traceparent": "00-1"} if message_id == "" else None
    )
    letter = await wire.get(DEAD)
    assert letter.body == body
    assert (letter.message_id or None) == sent_id
    assert letter.headers["error"] == code
    assert letter.headers["error-detail"]
    assert letter.headers["failed-by"] == "session_worker"
    assert datetime.fromisoformat(str(letter.headers["failed-at"])) <= datetime.now(UTC) + timedelta(seconds=1)
    assert sent_id is None or letter.headers["traceparent"] == "00-1"


@pytest.mark.parametrize(
    "properties",
    [b"\x00\x40" + (2**62).to_bytes(8, "big"), b"\x04\x00\x02\xff\xfe"],
    ids=["timestamp of 2^62", "correlation id that is not UTF-8"],
)
async def test_properties_that_no_library_reads_stop_nobody_else(
    worker: Process, wire: Wire, properties: bytes
) -> None:
    await wire.publish_raw("session.start.v1", b'{"chargerId": "H"}', properties)
    neighbour = await wire.publish("session.start.v1", {"chargerId": f"N-{uuid4()}"})
    await wire.event(lambda data: data["sessionId"] == neighbour)
    letter = await wire.get(DEAD)
    assert letter.headers["error"] == "unreadable_properties"
    assert letter.headers["original-properties"] == properties.hex()


async def test_a_partners_routing_key_that_nobody_serves_waits_in_unrouted(worker: Process, wire: Wire) -> None:
    await wire.publish("elsewhere.thing.v1", b"{}")
    letter = await wire.get("unrouted")
    assert letter.body == b"{}"


async def test_a_worker_killed_in_the_middle_loses_nothing_and_applies_nothing_twice(
    processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """G2: kill -9 while messages flow; the next worker goes on."""
    prefix = f"K{uuid4().hex[:8]}"
    victim = await processes.start("session_worker")
    ids: list[str | None] = []
    for number in range(300):
        ids.append(await wire.publish("session.start.v1", {"chargerId": f"{prefix}-{number}"}))
        if number == 150:
            await victim.kill()
            victim = await processes.start("session_worker")
    await wire.events(lambda data: data["sessionId"] in ids, count=300, timeout_s=40)
    count = await database.fetchval('SELECT count(*) FROM charging_sessions WHERE "chargerId" LIKE $1', f"{prefix}-%")
    assert count == 300
    assert await wire.depth(DEAD) == 0
    assert await victim.stop() == 0


async def test_events_left_behind_by_a_crash_are_swept_up(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """G4: an outbox row that nobody published in time is published by whoever runs, then deleted."""
    event_id, session_id = str(uuid7()), str(uuid4())
    body = {"type": "session.started", "timestamp": "2026-01-01T00:00:00.000Z", "data": {"sessionId": session_id}}
    entry = {
        "messageId": event_id,
        "type": "session.started.v1",
        "correlationId": session_id,
        "occurredAt": "2026-01-01T00:00:00.000Z",
        "headers": {},
        "body": json.dumps(body),
    }
    created_at = datetime.now(UTC) - sweeper.LEFT_BEHIND_AFTER * 2
    await database.execute(
        'INSERT INTO outbox (id, events, "createdAt") VALUES ($1, $2, $3)', uuid7(), json.dumps([entry]), created_at
    )
    await wire.event(lambda data: data["sessionId"] == session_id)

    async def is_empty() -> bool:
        return not await database.fetchval('SELECT count(*) FROM outbox WHERE "createdAt" = $1', created_at)

    await eventually(is_empty)


async def test_a_database_that_breaks_off_delays_and_loses_nothing(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """No dead letters in an outage: messages stay unacknowledged and are retried in the process."""
    ids = []
    for number in range(60):
        ids.append(await wire.publish("session.start.v1", {"chargerId": f"T-{number}-{uuid4()}"}))
        if number % 20 == 10:
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'session_worker'"
            )
    await wire.events(lambda data: data["sessionId"] in ids, count=60, timeout_s=30)
    assert await wire.depth(DEAD) == 0


async def test_sigterm_drains_and_exits_with_0(processes: Processes, wire: Wire) -> None:
    another = await processes.start("session_worker")
    message_id = await wire.publish("session.start.v1", {"chargerId": f"D-{uuid4()}"})
    assert await another.stop() == 0
    await wire.event(lambda data: data["sessionId"] == message_id)


async def test_the_gateways_exchange_names_the_client(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    session_id = await wire.publish(
        "session.start.v1",
        {"chargerId": f"G-{uuid4()}"},
        exchange=COMMANDS,
        headers={"client": "app", "privileged": False},
    )
    await wire.event(lambda data: data["sessionId"] == session_id)
    headers = {"client": "stranger", "privileged": False}
    stop_id = await wire.publish("session.stop.v1", {"sessionId": session_id}, exchange=COMMANDS, headers=headers)
    refusal = await wire.event(lambda data: data.get("messageId") == stop_id)
    assert (refusal["reason"], refusal["session"]) == ("UNKNOWN_SESSION", None)
    row = await session_row(database, str(session_id))
    assert row is not None
    assert (row["status"], row["client"]) == ("IN_PROGRESS", "app")


async def test_events_reach_the_callback_workers_queue(worker: Process, wire: Wire) -> None:
    before = await wire.depth(CALLBACK_EVENTS)
    message_id = await wire.publish("session.start.v1", {"chargerId": f"E-{uuid4()}"})
    await wire.event(lambda data: data["sessionId"] == message_id)

    async def has_more() -> bool:
        return await wire.depth(CALLBACK_EVENTS) > before

    await eventually(has_more)


async def test_a_routing_key_that_is_not_utf8_stops_nobody_else(worker: Process, wire: Wire) -> None:
    """Its bytes come in the delivery's own frame, before any property."""
    await wire.publish_under_raw_key(b"session.\xff\xfe", b"{}")
    neighbour = await wire.publish("session.start.v1", {"chargerId": f"N-{uuid4()}"})
    await wire.event(lambda data: data["sessionId"] == neighbour)
    letter = await wire.get(DEAD)
    assert letter.headers["error"] == "unknown_type"
    assert letter.headers["original-routing-key"] == "session.\\xff\\xfe"


async def test_a_timestamp_at_the_end_of_the_calendar_is_not_believed(worker: Process, wire: Wire) -> None:
    """pamqp reads large values as milliseconds: this one is the last second of the year 9999."""
    end = (253402300799000).to_bytes(8, "big")
    message_id = str(uuid4())
    identified = len(message_id).to_bytes(1, "big") + message_id.encode()
    await wire.publish_raw("session.start.v1", b'{"chargerId": "Y-9999"}', b"\x00\xc0" + identified + end)
    event = await wire.event(lambda data: data["sessionId"] == message_id)
    assert event["type"] == "session.started"


@pytest.mark.parametrize("number", ["18446744073709551616", "1e20", "1e308", "-1e300"])
async def test_a_number_that_would_not_come_back_as_it_was_is_refused_at_the_door(
    worker: Process, wire: Wire, number: str
) -> None:
    await wire.publish("session.start.v1", b'{"chargerId": "M", "metadata": {"n": %s}}' % number.encode())
    letter = await wire.get(DEAD)
    assert letter.headers["error"] == "schema_violation"


async def test_events_of_a_denied_request_are_numbered_on_and_reach_its_url(worker: Process, wire: Wire) -> None:
    body = {"stationId": f"S-{uuid4()}", "driverId": "D", "callbackUrl": "https://subscriber.example/x"}
    await wire.publish("session.request.v1", body)
    denied = await wire.publish("session.request.v1", body)
    stopped = await wire.publish("session.stop.v1", {"sessionId": denied})
    refusal = await wire.event(lambda data: data.get("messageId") == stopped)
    assert (refusal["reason"], refusal["sequence"]) == ("UNKNOWN_SESSION", 2)


async def test_sigterm_in_a_database_outage_exits_with_0_and_loses_nothing(
    servers: Servers, processes: Processes, wire: Wire
) -> None:
    """A batch in hand is left to the broker; a drain never waits for a database that is away."""
    draining = await processes.start("session_worker")
    await asyncio.to_thread(servers.stop, Server.POSTGRES)
    try:
        ids = [await wire.publish("session.start.v1", {"chargerId": f"O-{uuid4()}"}) for _ in range(5)]
        await asyncio.sleep(0.3)
        assert await draining.stop() == 0
    finally:
        await asyncio.to_thread(servers.start, Server.POSTGRES)
    await wire.events(lambda data: data["sessionId"] in ids, count=5, timeout_s=20)

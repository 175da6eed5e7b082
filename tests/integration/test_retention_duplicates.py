"""What comes again after it was forgotten: no session begins anew, nothing is applied twice, no old word stands."""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.apply import Received, Refusal, apply
from ops.local_stack.processes import Process, Processes
from shared.callback_commands import SetSubscription
from shared.commands import body_hash
from shared.database import create_engine
from shared.ids import idempotent_id, uuid7
from shared.retention.batches import database_time, work_off
from shared.retention.sessions import session_purges
from shared.retention.settings import SessionRetention
from shared.topology import COMMANDS, SESSION_COMMANDS, dead_letter_queue
from tests.past import Past, ago
from tests.servers import House
from tests.wire import Wire, eventually, open_wire

CONFIG = SessionRetention(
    inbox_retention_days=30, refused_retention_days=90, session_retention_days=365, payment_retention_days=730
)
DEAD = dead_letter_queue(SESSION_COMMANDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(processes: Processes) -> Process:
    return await processes.start("session_worker")


@pytest.fixture
async def wire(house: House, worker: Process) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        yield opened


@pytest.fixture
async def past(house: House) -> AsyncIterator[Past]:
    connection = await asyncpg.connect(house.database_url)
    yield Past(connection)
    await connection.close()


@pytest.fixture
async def engine(house: House) -> AsyncIterator[AsyncEngine]:
    opened = create_engine(house.database_url, name="test", pool_size=1)
    yield opened
    await opened.dispose()


async def age(past: Past, session_id: str, days: int) -> None:
    """Let so much time pass over a session and its messages."""
    for table, column, key in (("charging_sessions", "updatedAt", "id"), ("inbox", "receivedAt", "sessionId")):
        await past.connection.execute(
            f"""UPDATE {table} SET "{column}" = "{column}" - $2 * interval '1 day' WHERE "{key}" = $1""",
            UUID(session_id), days,
        )  # fmt: skip


async def purge(engine: AsyncEngine) -> None:
    assert await work_off(engine, session_purges(CONFIG, await database_time(engine)), lambda _: None, rest=0) == {}


async def told(wire: Wire, session_id: str, count: int) -> list[dict[str, Any]]:
    """All that was told of a session until now: a command that came later has been answered."""
    mark = await wire.publish("session.start.v1", {"chargerId": f"M-{uuid4()}"})
    await wire.event(lambda data: data["sessionId"] == mark)
    return await wire.events(lambda data: data["sessionId"] == session_id, count=count)


async def ended(wire: Wire) -> tuple[str, str]:
    """A completed session, and the id of the message that stopped it."""
    session_id = await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
    stop_id = await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "0"})
    await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == "session.completed")
    assert session_id is not None
    assert stop_id is not None
    return session_id, stop_id


async def test_a_stop_that_comes_again_after_a_year_is_answered_as_ever_while_its_session_is_kept(
    wire: Wire, past: Past, engine: AsyncEngine
) -> None:
    """By nothing: the inbox knows it as long as there is the session."""
    session_id, stop_id = await ended(wire)
    await age(past, session_id, 700)
    await purge(engine)
    await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "0"}, message_id=stop_id)
    assert [event["type"] for event in await told(wire, session_id, 2)] == ["session.started", "session.completed"]


async def test_a_stop_that_comes_again_after_its_session_is_gone_finds_none(
    wire: Wire, past: Past, engine: AsyncEngine
) -> None:
    """As that of any session that nobody knows: it is parked, and refused a quarter of an hour later."""
    session_id, stop_id = await ended(wire)
    await age(past, session_id, 800)
    await purge(engine)
    await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "0"}, message_id=stop_id)
    await told(wire, session_id, 2)
    row = await past.connection.fetchrow('SELECT outcome FROM inbox WHERE "messageId" = $1', UUID(stop_id))
    assert row is not None
    assert row["outcome"] == "PARKED"
    assert UUID(session_id) not in await past.ids("charging_sessions")


@pytest.mark.parametrize("named", [False, True], ids=["by its message", "by its body"])
@pytest.mark.parametrize("type_", ["session.start.v1", "session.request.v1"])
async def test_a_purged_session_is_not_started_anew(wire: Wire, past: Past, type_: str, named: bool) -> None:
    """The message's id tells its age. The refusal is told once, however often the message comes."""
    message_id = uuid7(ago(31))
    session_id = uuid4() if named else message_id
    body, key = {"chargerId": f"C-{session_id}"}, "sessionId"
    if type_ == "session.request.v1":
        body = {"stationId": f"S-{session_id}", "driverId": "D", "callbackUrl": "http://subscriber.example/"}
        key = "requestId"
    for _ in range(2):
        await wire.publish(type_, body | ({key: str(session_id)} if named else {}), message_id=str(message_id))
    [refusal] = await told(wire, str(session_id), 1)
    assert (refusal["type"], refusal["reason"]) == ("session.command_rejected", "TOO_OLD")
    assert session_id not in await past.ids("charging_sessions")
    assert session_id not in await past.ids("charging_session_requests")


async def test_of_the_gateways_messages_the_timestamp_tells_as_well(wire: Wire, past: Past) -> None:
    """An id that an Idempotency-Key stands for has no time: what waited for too long is refused all the same."""
    message_id = str(idempotent_id("app", str(uuid4())))
    body = {"chargerId": f"C-{message_id}"}
    await wire.publish("session.start.v1", body, message_id=message_id, exchange=COMMANDS, timestamp=ago(31))
    [refusal] = await told(wire, message_id, 1)
    assert refusal["reason"] == "TOO_OLD"


async def test_a_key_that_is_sent_again_after_it_was_forgotten_with_its_session_is_a_new_command(
    wire: Wire, past: Past, engine: AsyncEngine
) -> None:
    """Somebody has sent it just now, and nothing in it says otherwise."""
    message_id = str(idempotent_id("app", str(uuid4())))
    body = {"chargerId": f"C-{message_id}"}
    await wire.publish("session.start.v1", body, message_id=message_id, exchange=COMMANDS, timestamp=ago(0))
    await wire.publish("session.stop.v1", {"sessionId": message_id})
    await told(wire, message_id, 2)
    await age(past, message_id, 800)
    await purge(engine)
    await wire.publish("session.start.v1", body, message_id=message_id, exchange=COMMANDS, timestamp=ago(0))
    events = await told(wire, message_id, 3)
    assert [event["type"] for event in events] == ["session.started", "session.completed", "session.started"]


async def test_what_is_young_enough_is_applied_however_late_it_comes(wire: Wire, past: Past) -> None:
    """A queue may have waited for its workers for weeks."""
    message_id = str(uuid7(ago(29.9)))
    await wire.publish("session.start.v1", {"chargerId": f"C-{message_id}"}, message_id=message_id, exchange=COMMANDS)
    assert [event["type"] for event in await told(wire, message_id, 1)] == ["session.started"]


async def test_a_meter_value_that_comes_again_after_it_was_forgotten_changes_nothing(
    wire: Wire, past: Past, engine: AsyncEngine
) -> None:
    """Not the session, which is kept, nor what the value would have changed, and it is nobody's dead letter."""
    session_id, _ = await ended(wire)
    measured_at = datetime.now().astimezone().isoformat()
    first = {"sessionId": session_id, "meterWh": 1000, "measuredAt": measured_at}
    late = {"sessionId": session_id, "meterWh": 2000, "measuredAt": ago(-0.001).isoformat()}
    await wire.publish("session.meter.v1", first)
    message_id = await wire.publish("session.meter.v1", late)
    await told(wire, session_id, 2)
    await age(past, session_id, 40)
    await purge(engine)
    assert UUID(message_id) not in await past.ids("inbox", "messageId")
    before = [
        await past.connection.fetch(f"SELECT * FROM {table}") for table in ("session_adjustments", "meter_values")
    ]
    await wire.publish("session.meter.v1", late, message_id=message_id)
    await told(wire, session_id, 2)
    after = [await past.connection.fetch(f"SELECT * FROM {table}") for table in ("session_adjustments", "meter_values")]
    assert after == before
    assert await wire.depth(DEAD) == 0


async def test_an_old_word_about_a_driver_does_not_take_the_place_of_a_newer_one(wire: Wire, past: Past) -> None:
    await past.put("drivers", driverId="anna", status="BLOCKED", updatedAt=ago(0))
    body = {"driverId": "anna", "status": "ALLOWED"}
    message_id = await wire.publish("session.set_driver.v1", body, message_id=str(uuid7(ago(31))), exchange=COMMANDS)
    refusal = await wire.event(lambda data: data.get("messageId") == message_id)
    assert refusal["reason"] == "TOO_OLD"
    assert await past.connection.fetchval("""SELECT status FROM drivers WHERE "driverId" = 'anna'""") == "BLOCKED"


async def test_a_providers_event_is_followed_however_old_it_is(wire: Wire, past: Past) -> None:
    """It only says where to look; what counts is what the provider says now."""
    body = {"provider": "sandbox", "eventId": str(uuid4()), "event": {"type": "link.paid", "linkId": str(uuid4())}}
    message_id = str(uuid7(ago(31)))
    await wire.publish("payment.provider_event.v1", body, message_id=message_id)

    async def outcome() -> asyncpg.Record | None:
        return await past.connection.fetchrow('SELECT reason FROM inbox WHERE "messageId" = $1', UUID(message_id))

    assert (await eventually(outcome))["reason"] == "UNKNOWN_PAYMENT"


async def test_an_old_word_about_a_subscription_is_refused_as_well(engine: AsyncEngine, past: Past) -> None:
    """By the callback worker, for the same reason; and once."""
    command = SetSubscription(name="all", url="http://subscriber.example/")
    received = Received(
        command=command, message_id=uuid4(), body_hash=body_hash(command), client="app", privileged=False,
        minted_at=ago(31),
    )  # fmt: skip
    for is_repeated in (False, True):
        async with engine.begin() as tx:
            handled = await apply(tx, received, now=ago(0), keep_for=ago(0) - ago(3), remembered_days=30)
        assert (handled.refusal, handled.is_repeated) == (None if is_repeated else Refusal.TOO_OLD, is_repeated)
    assert await past.connection.fetchval("SELECT count(*) FROM callback_subscriptions") == 0
    row = await past.connection.fetchrow("SELECT outcome, reason FROM callback_inbox")
    assert row is not None
    assert json.dumps(dict(row)) == '{"outcome": "REFUSED", "reason": "TOO_OLD"}'

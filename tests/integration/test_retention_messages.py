"""Which messages and callbacks are purged and which are kept, by the logins of the processes that purge them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from callback_worker.redelivery_store import add_redelivery
from ops.local_stack.processes import Name
from shared.database import create_engine
from shared.retention import batches
from shared.retention.aged import DELIVERIES, callback_purges, inbox_purges
from shared.retention.batches import BEGINNING, Batch, Purge, Span, database_time, work_off
from shared.retention.settings import CallbackRetention
from tests.past import Past, ago
from tests.servers import House, with_logins
from tests.wire import eventually

CONFIG = CallbackRetention(inbox_retention_days=30, callback_log_retention_days=60)
HELD_TYPES = (
    "session.request.v1", "session.start.v1", "session.stop.v1", "session.cancel.v1", "payment.recreate_link.v1",
    "payment.refund.v1",
)  # fmt: skip
PASSING_TYPES = ("session.meter.v1", "payment.provider_event.v1", "driver.set.v1")


@pytest.fixture(scope="module")
def urls(house: House) -> dict[Name, str]:
    """The database as the least rights of each process have it."""
    return {name: urls["DATABASE_URL"] for name, urls in with_logins(house).items()}


@pytest.fixture
async def inbox(urls: dict[Name, str]) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(urls[Name.SESSION_WORKER], name="test", pool_size=1)
    yield engine
    await engine.dispose()


@pytest.fixture
async def callbacks(urls: dict[Name, str]) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(urls[Name.CALLBACK_WORKER], name="test", pool_size=2)
    yield engine
    await engine.dispose()


async def turn(engine: AsyncEngine, purges: Sequence[Purge]) -> None:
    assert await work_off(engine, purges, lambda _: None, rest=0) == {}


async def forget(engine: AsyncEngine) -> None:
    await turn(engine, inbox_purges(CONFIG, await database_time(engine)))


async def purge_callbacks(engine: AsyncEngine) -> None:
    await turn(engine, callback_purges(CONFIG, await database_time(engine)))


async def test_a_message_is_forgotten_by_its_age_where_nothing_hangs_on_it(inbox: AsyncEngine, past: Past) -> None:
    """Meter values, operators' and providers' messages, and every refusal: none would act on a session again."""
    kept = {await past.message(30, type=type_) for type_ in PASSING_TYPES}
    kept |= {await past.message(30, type=type_, outcome="REFUSED") for type_ in HELD_TYPES}
    for type_ in PASSING_TYPES:
        await past.message(31.1, type=type_)
    for type_ in (*PASSING_TYPES, *HELD_TYPES):
        await past.message(400, type=type_, outcome="REFUSED", reason="ALREADY_ENDED")
    await forget(inbox)
    assert await past.ids("inbox", "messageId") == kept


async def test_what_was_applied_to_a_session_is_remembered_as_long_as_the_session(
    inbox: AsyncEngine, past: Past
) -> None:
    """A refund that comes again after a year must not be a second one."""
    kept = {await past.message(400, type=type_) for type_ in HELD_TYPES}
    await forget(inbox)
    assert await past.ids("inbox", "messageId") == kept


async def test_a_message_that_waits_for_its_end_is_never_forgotten(inbox: AsyncEngine, past: Past) -> None:
    """Parked commands, pending requests, refunds that the provider has not taken: of any type."""
    kept = {await past.message(400, type=type_, outcome="PARKED") for type_ in (*PASSING_TYPES, *HELD_TYPES)}
    await forget(inbox)
    assert await past.ids("inbox", "messageId") == kept


async def test_events_that_wait_for_the_broker_are_never_purged(inbox: AsyncEngine, past: Past) -> None:
    """The outbox is no log: what is in it is owed, and goes when the broker has it."""
    await past.put("outbox", id=uuid4(), events="[]", createdAt=ago(400))
    await forget(inbox)
    assert await past.counts() == {"outbox": 1}


async def test_what_is_older_than_a_thousand_messages_goes_in_order_and_whole(inbox: AsyncEngine, past: Past) -> None:
    """Batch after batch, also where many are of one time; what somebody holds is passed over."""
    await past.many_messages(40, 2_500)
    await past.connection.execute("""UPDATE inbox SET "receivedAt" = (SELECT min("receivedAt") FROM inbox)
        WHERE "receivedAt" < (SELECT max("receivedAt") FROM inbox) - interval '1000 s'""")
    held = await past.message(35)
    async with past.connection.transaction():
        await past.connection.execute('SELECT FROM inbox WHERE "messageId" = $1 FOR UPDATE', held)
        await forget(inbox)
    assert await past.ids("inbox", "messageId") == {held}
    await forget(inbox)
    assert await past.counts() == {}


async def test_a_callback_goes_with_its_attempts_by_its_age(callbacks: AsyncEngine, past: Past) -> None:
    """Delivered or failed: as long as it is in the log it can be sent again, and no longer."""
    kept = {await past.delivery(60), await past.delivery(60, state="FAILED", reason="gone")}
    await past.delivery(61.1)
    await past.delivery(61.1, state="FAILED", reason="exhausted")
    await purge_callbacks(callbacks)
    assert await past.ids("callback_deliveries") == kept == await past.ids("callback_attempts", "callbackId")


async def test_a_callback_that_is_sent_or_waits_to_be_sent_is_never_purged(callbacks: AsyncEngine, past: Past) -> None:
    kept = {
        await past.delivery(400, state="PENDING", nextAttemptAt=ago(0)),
        await past.delivery(400, state="FAILED", reason="exhausted", leasedUntil=ago(0)),
        (asked := await past.delivery(400, state="FAILED", reason="expired")),
    }
    await past.redelivery(asked)
    await past.delivery(400)
    await purge_callbacks(callbacks)
    assert await past.ids("callback_deliveries") == kept
    assert await past.ids("callback_redeliveries", "callbackId") == {asked}


async def test_a_redelivery_that_comes_while_its_callback_is_purged_is_not_lost(
    callbacks: AsyncEngine, past: Past
) -> None:
    """Not yet committed, it holds its callback; committed between the purge's look and its lock, it is seen then."""
    asked = await past.delivery(400)
    async with past.connection.transaction():
        await past.redelivery(asked)
        await purge_callbacks(callbacks)
    async with callbacks.begin() as tx:
        await tx.execute(DELIVERIES.delete, {"keys": [asked]})
    assert await past.ids("callback_deliveries") == {asked}


async def test_a_redelivery_that_comes_too_late_finds_no_callback(callbacks: AsyncEngine, past: Past) -> None:
    """The purge has the row: the command waits for it, fails, and is refused when it is tried again."""
    gone = await past.delivery(400)
    [_, deliveries] = callback_purges(CONFIG, await database_time(callbacks))
    async with callbacks.begin() as tx:
        await deliveries.work(tx, Span(after=BEGINNING, before=deliveries.before, most=10))
        asking = asyncio.create_task(ask(callbacks, gone))

        async def waits() -> bool:
            return bool(await past.connection.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"))

        await eventually(waits)
    with pytest.raises(IntegrityError):
        await asking
    assert await ask(callbacks, gone) is False


async def ask(engine: AsyncEngine, callback_id: UUID) -> bool:
    async with engine.begin() as tx:
        now = ago(0)
        return await add_redelivery(tx, callback_id, uuid4(), None, now=now, expires_at=now + timedelta(days=3))


async def test_commands_about_callbacks_are_forgotten_by_their_age(callbacks: AsyncEngine, past: Past) -> None:
    kept = await past.callback_message(30)
    await past.callback_message(31.1)
    await purge_callbacks(callbacks)
    assert await past.ids("callback_inbox", "messageId") == {kept}


async def test_a_callback_of_a_clock_that_was_wrong_is_kept_by_its_real_age(callbacks: AsyncEngine, past: Past) -> None:
    """Its id is of the worker's clock, and of 1970 for once."""
    kept = await past.delivery(1, id=UUID("00000000-0000-7000-8000-000000000001"))
    await purge_callbacks(callbacks)
    assert await past.ids("callback_deliveries") == {kept}


async def test_what_a_statement_is_too_slow_for_goes_in_smaller_batches(
    inbox: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something big among the old must not keep all the rest for ever; what is no matter of time is not tried again."""
    monkeypatch.setattr(batches, "TRY_AGAIN_S", 0)
    sizes: list[int] = []

    async def work(tx: AsyncConnection, span: Span) -> Batch:
        sizes.append(span.most)
        if span.most > 100:
            await tx.execute(text("SET LOCAL statement_timeout = 1"))
            await tx.execute(text("SELECT pg_sleep(5)"))
        return Batch({}, None)

    async def broken(tx: AsyncConnection, _: Span) -> Batch:
        sizes.append(0)
        await tx.execute(text("SELECT 1/0"))
        return Batch({}, None)

    slow = Purge(name="slow", before=ago(30), most=1000, work=work, count=work)
    wrong = Purge(name="wrong", before=ago(30), most=1000, work=broken, count=broken)
    failures = await work_off(inbox, [wrong, slow], lambda _: None, rest=0)
    assert sizes == [0, 1000, 250, 62]
    assert list(failures) == ["wrong"]

"""Which sessions and requests are purged, with what, and which never are, as the session worker's login purges them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

import shared.retention.sessions
from ops.local_stack.processes import Name
from session_worker.payments.payment import PaymentStatus
from shared.database import create_engine, lock_key
from shared.retention import batches
from shared.retention.batches import BEGINNING, Mark, Span, database_time, work_off
from shared.retention.caretaker import Caretaker
from shared.retention.sessions import session_purges
from shared.retention.settings import SessionRetention
from tests.past import BELONGINGS, Past, ago
from tests.servers import House, with_logins
from tests.wire import eventually

CONFIG = SessionRetention(
    inbox_retention_days=30, refused_retention_days=90, session_retention_days=365, payment_retention_days=730
)
# Older than all that is kept; the margin of a day included.
LONG_AGO = 732
UNSETTLED = (PaymentStatus.PENDING, PaymentStatus.PROCESSING, PaymentStatus.FAILED)


@pytest.fixture(scope="module")
def url(house: House) -> str:
    """The database as the session worker's least rights have it."""
    return with_logins(house)[Name.SESSION_WORKER]["DATABASE_URL"]


async def purge(url: str, config: SessionRetention = CONFIG) -> dict[str, int]:
    """Take a turn to its end; return what went."""
    engine = create_engine(url, name="test", pool_size=1)
    rows: dict[str, int] = {}

    def tell(gone: Any) -> None:
        rows.update({table: rows.get(table, 0) + count for table, count in gone.items()})

    failures = await work_off(engine, session_purges(config, await database_time(engine)), tell, rest=0)
    await engine.dispose()
    assert failures == {}
    return {table: count for table, count in rows.items() if count}


async def batches_of(url: str, name: str) -> AsyncIterator[None]:
    """Take a turn at one kind, stopping behind each batch."""
    engine = create_engine(url, name="test", pool_size=1)
    kinds = {each.name: each for each in session_purges(CONFIG, await database_time(engine))}
    after: Mark | None = BEGINNING
    while after is not None:
        span = Span(after=after, before=kinds[name].before, most=kinds[name].most)
        after = (await batches._one(engine, kinds[name].work, span)).next
        yield
    await engine.dispose()


async def test_a_session_goes_with_all_that_belongs_to_it(url: str, past: Past) -> None:
    """Nothing of it is left in any table, and nothing of another one is missing."""
    old, young = await past.paid_session(LONG_AGO), await past.paid_session(729)
    before = await past.counts()
    gone = await purge(url)
    assert gone == {table: count // 2 for table, count in before.items()}
    assert await past.counts() == gone
    for table, column in BELONGINGS.items():
        assert await past.ids(table, column) == {young}, table
    assert old not in await past.ids("inbox", "sessionId")


async def test_each_kind_of_session_has_a_time_of_its_own(url: str, past: Past) -> None:
    """What never began, what nobody here has priced, and what is in the books."""
    kept = {
        await past.refused_session(90),
        await past.session(365),
        await past.session(730, finalCost=0),
        await past.paid_session(730),
        await past.request(90),
    }
    for days, make in ((92, past.refused_session), (367, past.session), (732, past.paid_session), (92, past.request)):
        await make(days)
    await past.session(732, finalCost=0)
    await purge(url)
    assert await past.ids("charging_sessions") | await past.ids("charging_session_requests") == kept


async def test_zero_keeps_for_ever(url: str, past: Past) -> None:
    await past.paid_session(20_000)
    await past.request(20_000)
    before = await past.counts()
    for_ever = SessionRetention(
        inbox_retention_days=0, refused_retention_days=0, session_retention_days=0, payment_retention_days=0
    )
    assert await purge(url, for_ever) == {}
    assert await past.counts() == before


async def test_what_is_remembered_for_ever_is_not_forgotten_with_its_session(url: str, past: Past) -> None:
    await past.paid_session(LONG_AGO)
    await purge(url, CONFIG.model_copy(update={"inbox_retention_days": 0}))
    assert await past.counts() == {"inbox": 2}


async def in_progress(past: Past) -> UUID:
    return await past.session(LONG_AGO, status="IN_PROGRESS", phase="ACTIVE", endedAt=None)


async def touched_of_late(past: Past) -> UUID:
    """A refund last week, of a session of years ago."""
    return await past.session(LONG_AGO, finalCost=1, updatedAt=ago(7))


async def surplus(past: Past) -> UUID:
    """The driver paid twice, and did not get it back."""
    return await past.paid_session(LONG_AGO, paidAmount=24, refundedAmount=0)


async def refund_on_its_way(past: Past) -> UUID:
    session_id = await past.paid_session(LONG_AGO)
    await past.connection.execute(
        """UPDATE payment_refunds SET status = 'PENDING' WHERE "sessionId" = $1""", session_id
    )
    return session_id


async def waiting_callback(past: Past) -> UUID:
    session_id = await past.paid_session(LONG_AGO)
    await past.delivery(1, sessionId=session_id, state="PENDING")
    return session_id


async def waiting_command(past: Past) -> UUID:
    session_id = await past.paid_session(LONG_AGO)
    await past.message(LONG_AGO, type="payment.refund.v1", outcome="PARKED", sessionId=session_id)
    return session_id


async def young_message(past: Past) -> UUID:
    """It may still come again: its end must be the same."""
    session_id = await past.paid_session(LONG_AGO)
    await past.message(29, type="payment.recreate_link.v1", sessionId=session_id)
    return session_id


KEPT: dict[str, Callable[[Past], Awaitable[UUID]]] = {
    "in progress": in_progress,
    "touched of late": touched_of_late,
    "a step that waits for the provider": lambda past: past.paid_session(LONG_AGO, dueAt=ago(1)),
    "a surplus": surplus,
    "a refund on its way": refund_on_its_way,
    "a callback that waits": waiting_callback,
    "a command that waits": waiting_command,
    "a message that may come again": young_message,
    **{
        f"payment {status}": lambda past, status=status: past.paid_session(  # type: ignore[misc]
            LONG_AGO, status=str(status), paidAmount=0, refundedAmount=0
        )
        for status in UNSETTLED
    },
}


@pytest.mark.parametrize("why", KEPT)
async def test_a_session_is_kept_whole_for_its_reason(url: str, past: Past, why: str) -> None:
    """Whatever its age. Without the reason it would go: the one beside it does."""
    kept = await KEPT[why](past)
    before = await past.counts()
    await past.paid_session(LONG_AGO)
    await purge(url)
    assert await past.ids("charging_sessions") == {kept}
    assert await past.counts() == before


@pytest.mark.parametrize("status", [status for status in PaymentStatus if status not in UNSETTLED])
async def test_a_settled_payment_keeps_nothing(url: str, past: Past, status: PaymentStatus) -> None:
    await past.paid_session(LONG_AGO, status=str(status))
    await purge(url)
    assert await past.counts() == {}


async def test_a_request_is_kept_while_it_waits_for_its_decision_or_its_callback(url: str, past: Past) -> None:
    waits = await past.request(LONG_AGO, decision=None, reason=None, decidedAt=None)
    unheard = await past.request(LONG_AGO)
    await past.delivery(1, requestId=unheard, state="PENDING")
    await past.request(LONG_AGO)
    await purge(url)
    assert await past.ids("charging_session_requests") == {waits, unheard}


async def test_what_a_command_is_at_work_on_stays_and_delays_nobody(house: House, url: str, past: Past) -> None:
    """The batch has the session's lock; the purge neither waits for it nor makes it wait."""
    session_id, request_id = await past.paid_session(LONG_AGO), await past.request(LONG_AGO)
    engine = create_engine(house.database_url, name="batch", pool_size=1)
    async with engine.begin() as tx:
        for each in (session_id, request_id):
            await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(str(each))})
        assert await purge(url) == {}
    await engine.dispose()
    await purge(url)
    assert await past.counts() == {}


async def test_each_batch_leaves_every_session_whole_however_many_values_it_has(
    url: str, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches anything may come: a kill, a refund that keeps the rest. A batch is small all the same.

    Some fit together; one has more than a batch by itself, and goes alone; one that is kept is passed over.
    """
    monkeypatch.setattr(shared.retention.sessions, "VALUES_PER_BATCH", 10)
    values: dict[UUID, int] = {}
    for number, more in enumerate((0, 1, 0, 45, 0, 1, 2, 60, 0)):
        session_id = await past.paid_session(LONG_AGO + 10 - number, **({"dueAt": ago(1)} if number == 4 else {}))
        await past.many_values(session_id, more)
        # With three values, and an adjustment, which counts as one.
        values[session_id] = 4 + more
    owed = [*values][4]
    before, sizes = dict(values), []
    async for _ in batches_of(url, "sessions, priced"):
        left = await past.values()
        assert left == {session_id: values[session_id] for session_id in left}
        for table, column in BELONGINGS.items():
            assert await past.ids(table, column) == set(left), table
        sizes.append(sum(before.values()) - sum(left.values()))
        before = left
    assert set(before) == {owed}
    assert sizes == [4 + 5, 4, 4 + 45, 5, 6, 4 + 60, 4]


async def test_a_session_with_more_values_than_a_batch_may_take_longer(
    url: str, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes at one go; what is short for a batch might never be enough for it."""
    monkeypatch.setattr(shared.retention.sessions, "VALUES_PER_BATCH", 10)
    monkeypatch.setattr(batches, "_QUIETLY", text("SELECT set_config('statement_timeout', '200ms', true)"))
    await past.many_values(await past.paid_session(LONG_AGO), 45)
    await past.connection.execute("""
        CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END' LANGUAGE plpgsql;
        CREATE TRIGGER slow AFTER DELETE ON meter_values FOR EACH STATEMENT EXECUTE FUNCTION slow()""")
    try:
        assert (await purge(url))["meter_values"] == 48
    finally:
        await past.connection.execute("DROP FUNCTION slow CASCADE")


async def test_two_at_once_purge_each_row_once(url: str, past: Past) -> None:
    """Neither fails, and neither waits for the other."""
    for _ in range(30):
        await past.paid_session(LONG_AGO)
        await past.request(LONG_AGO)
    await past.many_messages(40, 5_000)
    before = await past.counts()
    turns = await asyncio.gather(*(purge(url) for _ in range(3)))
    rest = await purge(url)
    assert {table: sum(each.get(table, 0) for each in (*turns, rest)) for table in before} == before
    assert await past.counts() == {}


async def test_a_turn_that_is_broken_off_has_done_what_it_has_done(
    url: str, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, as by SIGTERM, between or in batches: no session is half gone, and the next turn ends it."""
    monkeypatch.setattr(shared.retention.sessions, "SESSIONS_PER_BATCH", 5)
    for _ in range(100):
        await past.paid_session(LONG_AGO)
    caretaker = Caretaker(url, name="test", purges=partial(session_purges, CONFIG), has_leapt=lambda: False)
    turn = asyncio.create_task(caretaker.run_once())

    async def begun() -> bool:
        return len(await past.ids("charging_sessions")) < 100

    await eventually(begun)
    turn.cancel()
    await asyncio.wait([turn])
    left = await past.ids("charging_sessions")
    assert 0 < len(left) < 100
    assert len(left) % 5 == 0
    for table, column in BELONGINGS.items():
        assert await past.ids(table, column) == left, table
    await purge(url)
    assert await past.counts() == {}

"""Purges at size: every batch finds its rows by index, a late one as fast as the first; an idle turn is some look-ups.

Whatever the statistics say, those of empty tables included: autovacuum comes when it comes.
"""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ops.maintain import MaintainSettings
from shared.database import create_engine
from shared.ids import least_id
from shared.retention.aged import callback_purges
from shared.retention.batches import _QUIETLY, BEGINNING, Mark, Purge, Span, database_time
from shared.retention.sessions import session_purges
from tests.past import TABLES, Past
from tests.servers import House

ROWS = 100_000
# A batch touches its rows in up to ten tables with all their indexes, 5,000 to 14,000 pages. To look for one of them in
# a whole table or index would be some hundreds each time.
MOST_PAGES = 20_000
IDLE_PAGES = 30
NAMES = (
    "inbox", "sessions, refused", "sessions, unpriced", "sessions, priced", "requests, refused", "callback_inbox",
    "callback_deliveries",
)  # fmt: skip

_ID = """CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7000' || '8000'
    || lpad(to_hex(n), 12, '0') AS uuid)"""
# Every quarter of an hour for three years: what is old and what is not are both many. Statistics are those of before.
_TIMES = f"(SELECT n, now() - n * interval '15 minutes' AS at FROM generate_series(1, {ROWS}) AS n) AS made"
_FILL = f"""
    INSERT INTO inbox SELECT gen_random_uuid(), CASE n % 4 WHEN 0 THEN 'session.stop.v1' ELSE 'session.meter.v1' END,
        '\\x00', gen_random_uuid(), 'APPLIED', NULL, at FROM {_TIMES};
    INSERT INTO callback_inbox SELECT gen_random_uuid(), 'callback.redeliver.v1', '\\x00', 'APPLIED', NULL, at
        FROM {_TIMES};
    INSERT INTO charging_sessions (id, "chargerId", status, phase, "startedAt", "finalCost", currency, "createdAt",
            "updatedAt", sequence)
        SELECT {_ID}, 'C', 'COMPLETED', 'COMPLETED', CASE WHEN n % 3 > 0 THEN at END, CASE WHEN n % 3 > 1 THEN 1 END,
            'EUR', at, at, 2 FROM {_TIMES};
    INSERT INTO charging_session_requests (id, "stationId", "driverId", "callbackUrl", decision, "decidedAt",
            "createdAt") SELECT gen_random_uuid(), 'S', 'D', 'http://s/', 'not_allowed', at, at FROM {_TIMES};
    INSERT INTO meter_values SELECT id, "createdAt", 1, true FROM charging_sessions;
    INSERT INTO payments SELECT id, 'sandbox', 'PAID', 1, 'EUR', 1, 0, 0, NULL, NULL, "createdAt", "createdAt"
        FROM charging_sessions WHERE "finalCost" IS NOT NULL;
    INSERT INTO payment_links (id, "sessionId", number, status, amount, "idempotencyKey", "expiresAt",
            "lifetimeMinutes", "isAccepted", "isClosing", "isForced", "commandIds", "createdAt")
        SELECT "sessionId", "sessionId", 1, 'COMPLETED', 1, "sessionId", now(), 60, true, false, false, '[]', now()
        FROM payments;
    INSERT INTO payment_refunds (id, "sessionId", "linkId", status, amount, "idempotencyKey", "isAutomatic",
            "createdAt") SELECT id, id, id, 'SUCCEEDED', 1, id, false, now() FROM payment_links;
    INSERT INTO sandbox_links SELECT id, id, id, '', 100, 'EUR', 'paid', now(), now(), now() FROM payment_links;
    INSERT INTO sandbox_refunds SELECT id, id, id, id, 100, 'succeeded', now() FROM sandbox_links;
    INSERT INTO callback_deliveries (id, "eventId", type, "sessionId", url, host, destination, body, state,
            "attemptCount", "expiresAt", "createdAt")
        SELECT {_ID}, gen_random_uuid(), 't', CASE WHEN n % 2 = 0 THEN {_ID} END, 'http://s/', 's', 's:80', '', CASE
            WHEN n < 8000 THEN 'PENDING' WHEN n % 9 = 0 THEN 'FAILED' ELSE 'DELIVERED' END, 1, now(), at FROM {_TIMES};
    INSERT INTO callback_attempts SELECT id, 1, "createdAt", 1, 'delivered', 200, NULL, '', false
        FROM callback_deliveries;
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(house: House) -> None:
    """A hundred thousand rows in every table, none of which Postgres has looked at."""
    connection = await asyncpg.connect(house.database_url)
    await Past(connection).empty()
    await connection.execute("ANALYZE")
    for table in (*TABLES, "callback_attempts"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await connection.execute(_FILL)
    await connection.close()


# Of a time at which no callback waited: the index of those that wait is taken for an empty one.
_BEFORE_A_BACKLOG = """
    CREATE TEMPORARY TABLE waiting AS SELECT id FROM callback_deliveries WHERE state = 'PENDING';
    UPDATE callback_deliveries SET state = 'DELIVERED' WHERE state = 'PENDING';
    ANALYZE;
    REINDEX TABLE callback_deliveries;
    UPDATE callback_deliveries SET state = 'PENDING' WHERE id IN (SELECT id FROM waiting)"""


@pytest.fixture(params=["statistics of empty tables", "fresh statistics", "statistics from before a backlog"])
async def engine(filled: None, house: House, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """Its connections explain every statement that they run, those of foreign keys too."""
    created = create_engine(house.database_url, name="plans", pool_size=1)

    @event.listens_for(created.sync_engine, "connect")
    def explain(connection: Any, _: object) -> None:
        connection.run_async(_explaining)

    if request.param != "statistics of empty tables":
        async with created.begin() as tx:
            for statement in ("ANALYZE" if request.param == "fresh statistics" else _BEFORE_A_BACKLOG).split(";"):
                await tx.execute(text(statement))
    yield created
    await created.dispose()


plans: list[str] = []


async def _explaining(connection: asyncpg.Connection) -> None:
    connection.add_log_listener(lambda _, message: plans.append(str(message)))
    await connection.execute("""
        LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
        SET auto_explain.log_analyze = on; SET auto_explain.log_buffers = on; SET auto_explain.log_timing = off;
        SET client_min_messages = log""")


async def purges(engine: AsyncEngine, **days: int) -> dict[str, Purge]:
    config = MaintainSettings(database_url=SecretStr("postgresql://localhost"), **days)  # type: ignore[arg-type]
    now = await database_time(engine)
    return {purge.name: purge for purge in (*session_purges(config, now), *callback_purges(config, now))}


async def explained(engine: AsyncEngine, purge: Purge, after: Mark) -> tuple[int, list[str]]:
    """Run one batch and undo it; return how many rows it deleted, and the plans of all its statements."""
    async with engine.connect() as tx:
        await tx.execute(_QUIETLY)
        plans.clear()
        batch = await purge.work(tx, Span(after=after, before=purge.before, most=purge.most))
        await tx.rollback()
    return sum(batch.rows.values()), list(plans)


def pages_of(found: list[str]) -> int:
    """The pages that the statements touched."""
    whole = [re.search(r"Buffers: shared((?: \w+=\d+)+)", plan) for plan in found]
    return sum(int(count) for each in whole if each for count in re.findall(r"(?:hit|read)=(\d+)", each[1]))


@pytest.mark.parametrize("name", NAMES)
async def test_every_batch_finds_its_rows_by_index_and_a_late_one_as_fast_as_the_first(
    engine: AsyncEngine, name: str
) -> None:
    purge = (await purges(engine, session_retention_days=365, payment_retention_days=365))[name]
    late = purge.before - timedelta(days=30)
    pages = []
    for after in (BEGINNING, Mark(late, least_id(late))):
        rows, found = await explained(engine, purge, after)
        assert rows >= purge.most
        assert [plan for plan in found if "Seq Scan" in plan] == []
        pages.append(pages_of(found))
    assert max(pages) < MOST_PAGES
    assert pages[1] < 1.5 * pages[0]


async def test_a_turn_that_finds_nothing_costs_some_look_ups(engine: AsyncEngine) -> None:
    """Beside a hundred thousand rows of each kind that are kept."""
    kept = ("inbox", "refused", "session", "payment", "callback_log")
    found = await purges(engine, **{f"{name}_retention_days": 36_500 for name in kept})
    assert set(found) == set(NAMES)
    for name, purge in found.items():
        rows, statements = await explained(engine, purge, BEGINNING)
        assert rows == 0
        assert pages_of(statements) < IDLE_PAGES, name

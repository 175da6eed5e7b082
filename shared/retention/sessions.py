"""Sessions and refused requests that may go, each with all that belongs to it, or not at all.

A session goes when it has ended, nothing is owed on either side, no callback of it waits, and the messages that made it
are as old as the inbox remembers; those go with it. It is looked at again under its own lock, which is only tried: what
a command is at work on stays.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.database import STATEMENT_TIMEOUT_S, lock_key
from shared.retention.age import cutoff
from shared.retention.aged import HELD, inbox_purges
from shared.retention.batches import Batch, Mark, Purge, Span
from shared.retention.settings import SessionRetention

# Each takes a lock, of some thousands that all have together, and has rows in ten tables.
SESSIONS_PER_BATCH: Final = 100
# A session may have any number of meter values; so few go at a time that they have no more of them together.
VALUES_PER_BATCH: Final = 5_000
# One that has more by itself goes alone, whole as well: a million values take half a second from memory.
ALONE_TIMEOUT_S: Final = STATEMENT_TIMEOUT_S
_NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


class Kind(StrEnum):
    """What an ended session was; the index of migration 0006 has the same words."""

    REFUSED = "refused"  # it never began
    UNPRICED = "unpriced"  # nobody here knows what it cost
    PRICED = "priced"


_KIND: Final = """
    (CASE WHEN "startedAt" IS NULL THEN 'refused' WHEN "finalCost" IS NULL THEN 'unpriced' ELSE 'priced' END)"""
_FIND: Final = {
    kind: text(f"""
        SELECT id, "updatedAt" AS at FROM charging_sessions
        WHERE status <> 'IN_PROGRESS' AND {_KIND} = '{kind}' AND "updatedAt" >= :after_at AND "updatedAt" < :before
            AND ("updatedAt", id) > (:after_at, :after_id)
        ORDER BY "updatedAt", id LIMIT :most""")  # noqa: S608 - constants
    for kind in Kind
}
_FIND_REQUESTS: Final = text("""
    SELECT id, "decidedAt" AS at FROM charging_session_requests
    WHERE decision IS NOT NULL AND "sessionId" IS NULL AND "decidedAt" >= :after_at AND "decidedAt" < :before
        AND ("decidedAt", id) > (:after_at, :after_id)
    ORDER BY "decidedAt", id LIMIT :most""")
_TRY_LOCK: Final = text("""
    SELECT id FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS bigint[])) AS found (id, key)
    WHERE pg_try_advisory_xact_lock(key)""")

# What is owed, or too much was paid and not given back, or a step waits for the provider. OFFSET 0 has each session's
# own rows looked up: no list is made of all that is open, and the state of a callback is asked after its session.
_MAY_GO: Final = text(f"""
    SELECT s.id FROM charging_sessions AS s
    WHERE s.id = ANY (CAST(:ids AS uuid[])) AND s.status <> 'IN_PROGRESS' AND s."updatedAt" < :before
        AND NOT EXISTS (SELECT FROM payments AS p WHERE p."sessionId" = s.id AND (
            p.status IN ('PENDING', 'PROCESSING', 'FAILED') OR p."dueAt" IS NOT NULL
            OR p."paidAmount" - p."refundedAmount" > p.amount) OFFSET 0)
        AND NOT EXISTS (SELECT FROM payment_refunds AS r WHERE r."sessionId" = s.id
            AND r.status IN ('REQUESTED', 'PENDING') OFFSET 0)
        AND NOT EXISTS (SELECT FROM (SELECT state FROM callback_deliveries WHERE "sessionId" = s.id OFFSET 0) AS d
            WHERE d.state = 'PENDING')
        AND NOT EXISTS (SELECT FROM inbox WHERE inbox."sessionId" = s.id AND {HELD}
            AND (outcome = 'PARKED' OR "receivedAt" >= :remembered) OFFSET 0)""")  # noqa: S608 - a constant
_REQUESTS_MAY_GO: Final = text("""
    SELECT id FROM charging_session_requests AS q
    WHERE id = ANY (CAST(:ids AS uuid[])) AND decision IS NOT NULL AND "sessionId" IS NULL
        AND NOT EXISTS (SELECT FROM (SELECT state FROM callback_deliveries WHERE "requestId" = q.id OFFSET 0) AS d
            WHERE d.state = 'PENDING')""")

_THEMSELVES: Final = "id = ANY (CAST(:ids AS uuid[]))"
_OF_SESSIONS: Final = '"sessionId" = ANY (CAST(:ids AS uuid[]))'
_LINKS: Final = f"ANY (ARRAY(SELECT CAST(id AS text) FROM payment_links WHERE {_OF_SESSIONS}))"  # noqa: S608 - a constant
# Which rows of which table; first what refers to others, last the sessions.
_WHICH: Final = {
    "inbox": f"{_OF_SESSIONS} AND {HELD}",
    "meter_values": _OF_SESSIONS,
    "session_adjustments": _OF_SESSIONS,
    "payment_refunds": _OF_SESSIONS,
    "sandbox_refunds": f'"linkId" = {_LINKS}',
    "sandbox_links": f"id = {_LINKS}",
    "payment_links": _OF_SESSIONS,
    "payments": _OF_SESSIONS,
    "charging_session_requests": _THEMSELVES,
    "charging_sessions": _THEMSELVES,
}
SESSION_TABLES: Final = tuple(_WHICH)
_DELETE: Final = {table: text(f"DELETE FROM {table} WHERE {which}") for table, which in _WHICH.items()}  # noqa: S608 - constants, as below
# Of each session, no more than matter.
_VALUES: Final = text("""
    SELECT s.id, (SELECT count(*) FROM (SELECT FROM meter_values WHERE "sessionId" = s.id LIMIT :most) AS v)
        + (SELECT count(*) FROM (SELECT FROM session_adjustments WHERE "sessionId" = s.id LIMIT :most) AS a)
        AS value_count
    FROM unnest(CAST(:ids AS uuid[])) AS s (id)""")
_ALONE: Final = text(f"SET LOCAL statement_timeout = '{ALONE_TIMEOUT_S}s'")
_COUNT: Final = {table: text(f"SELECT count(*) FROM {table} WHERE {which}") for table, which in _WHICH.items()}  # noqa: S608


def session_purges(config: SessionRetention, now: datetime) -> list[Purge]:
    """Return all that the session worker purges."""
    remembered = cutoff(now, config.inbox_retention_days)
    days_of = {
        Kind.REFUSED: config.refused_retention_days,
        Kind.UNPRICED: config.session_retention_days,
        Kind.PRICED: config.payment_retention_days,
    }
    purges = inbox_purges(config, now)
    for kind, days in days_of.items():
        if (before := cutoff(now, days)) is not None:
            work, count = (partial(each, kind, remembered) for each in (_purge_sessions, _count_sessions))
            purges.append(
                Purge(name=f"sessions, {kind}", before=before, most=SESSIONS_PER_BATCH, work=work, count=count)
            )
    if (before := cutoff(now, config.refused_retention_days)) is not None:
        name = "requests, refused"
        purges.append(
            Purge(name=name, before=before, most=SESSIONS_PER_BATCH, work=_purge_requests, count=_count_requests)
        )
    return purges


async def _purge_sessions(kind: Kind, remembered: datetime | None, tx: AsyncConnection, span: Span) -> Batch:
    rows: Counter[str] = Counter()
    found = await _found(tx, _FIND[kind], span)
    ids = await _locked(tx, [row.id for row in found])
    may_go = await _may_go(tx, ids, span.before, remembered)
    going = await _fitting(tx, [row.id for row in found if row.id in may_go])
    if going:
        for table in _tables(remembered):
            rows[table] = (await tx.execute(_DELETE[table], {"ids": going})).rowcount
    if left := set(may_go).difference(going):
        last = next(number for number, row in enumerate(found) if row.id in left) - 1
        return Batch(rows, Mark(found[last].at, found[last].id))
    return Batch(rows, _next(found, span))


async def _fitting(tx: AsyncConnection, ids: list[UUID]) -> list[UUID]:
    """Return the first of them, at least one, whose values go in one short transaction."""
    if not ids:
        return []
    counted = await tx.execute(_VALUES, {"ids": ids, "most": VALUES_PER_BATCH + 1})
    values = {row.id: row.value_count for row in counted}
    going, room = ids[:1], VALUES_PER_BATCH - values[ids[0]]
    if room < 0:
        await tx.execute(_ALONE)
    for each in ids[1:]:
        room -= values[each]
        if room < 0:
            break
        going.append(each)
    return going


async def _count_sessions(kind: Kind, remembered: datetime | None, tx: AsyncConnection, span: Span) -> Batch:
    rows: Counter[str] = Counter()
    found = await _found(tx, _FIND[kind], span)
    if ids := await _may_go(tx, [row.id for row in found], span.before, remembered):
        for table in _tables(remembered):
            rows[table] = (await tx.execute(_COUNT[table], {"ids": ids})).scalar_one()
    return Batch(rows, _next(found, span))


def _tables(remembered: datetime | None) -> Iterable[str]:
    """Return the tables whose rows go with their sessions: what is remembered for ever does not."""
    return (table for table in SESSION_TABLES if table != "inbox" or remembered is not None)


async def _purge_requests(tx: AsyncConnection, span: Span) -> Batch:
    found = await _found(tx, _FIND_REQUESTS, span)
    if not (ids := await _locked(tx, [row.id for row in found])):
        return Batch({}, _next(found, span))
    ids = list((await tx.execute(_REQUESTS_MAY_GO, {"ids": ids})).scalars())
    deleted = await tx.execute(_DELETE["charging_session_requests"], {"ids": ids})
    return Batch({"charging_session_requests": deleted.rowcount}, _next(found, span))


async def _count_requests(tx: AsyncConnection, span: Span) -> Batch:
    found = await _found(tx, _FIND_REQUESTS, span)
    ids = (await tx.execute(_REQUESTS_MAY_GO, {"ids": [row.id for row in found]})).scalars().all()
    return Batch({"charging_session_requests": len(ids)}, _next(found, span))


async def _found(tx: AsyncConnection, find: TextClause, span: Span) -> Sequence[Row[Any]]:
    parameters = {"after_at": span.after.at, "after_id": span.after.id, "before": span.before, "most": span.most}
    return (await tx.execute(find, parameters)).all()


async def _locked(tx: AsyncConnection, ids: list[UUID]) -> list[UUID]:
    """Return those that nobody else is at work on; till the end of the transaction nobody will be."""
    if not ids:
        return []
    keys = [lock_key(str(each)) for each in ids]
    return list((await tx.execute(_TRY_LOCK, {"ids": ids, "keys": keys})).scalars())


async def _may_go(tx: AsyncConnection, ids: list[UUID], before: datetime, remembered: datetime | None) -> list[UUID]:
    """A statement of its own, behind the locks: it sees what the last holder committed."""
    if not ids:
        return []
    parameters = {"ids": ids, "before": before, "remembered": remembered or _NEVER}
    return list((await tx.execute(_MAY_GO, parameters)).scalars())


def _next(found: Sequence[Row[Any]], span: Span) -> Mark | None:
    return Mark(found[-1].at, found[-1].id) if len(found) == span.most else None

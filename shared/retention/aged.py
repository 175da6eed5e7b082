"""Rows that may go by their age alone: messages that were handled, and the log of callbacks.

What an index of their age holds may go, so a batch looks at no row in vain, and a turn that finds nothing costs a
look-up each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.ids import least_id
from shared.retention.age import cutoff
from shared.retention.batches import Batch, Mark, Purge, Span
from shared.retention.settings import CallbackRetention, InboxRetention

# Some ten milliseconds.
ROWS_PER_BATCH: Final = 1_000

# A message whose repetition would act again, or that waits for its end. Migration 0006 has the same condition.
HELD: Final = """(outcome = 'PARKED' OR (outcome = 'APPLIED' AND type IN (
    'session.request.v1', 'session.start.v1', 'session.stop.v1', 'session.cancel.v1',
    'payment.recreate_link.v1', 'payment.refund.v1')))"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aged:
    """One table: `find` gives key and time of a stretch, in order; `delete` may keep some of it after all."""

    table: str
    find: TextClause
    delete: TextClause

    def purge(self, before: datetime) -> Purge:
        """Return what purges it."""
        return Purge(name=self.table, before=before, most=ROWS_PER_BATCH, work=self._work, count=self._count)

    async def _work(self, tx: AsyncConnection, span: Span) -> Batch:
        found = (await tx.execute(_locking(self.find), _parameters(self.find, span))).all()
        if not found:
            return Batch({}, None)
        deleted = await tx.execute(self.delete, {"keys": [row.key for row in found]})
        return Batch({self.table: deleted.rowcount}, _next(found, span))

    async def _count(self, tx: AsyncConnection, span: Span) -> Batch:
        found = (await tx.execute(self.find, _parameters(self.find, span))).all()
        return Batch({self.table: len(found)}, _next(found, span))


INBOX: Final = Aged(
    table="inbox",
    find=text(f"""
        SELECT "messageId" AS key, "receivedAt" AS at FROM inbox
        WHERE NOT {HELD} AND "receivedAt" >= :after_at AND "receivedAt" < :before
            AND ("receivedAt", "messageId") > (:after_at, :after_key)
        ORDER BY "receivedAt", "messageId" LIMIT :most"""),  # noqa: S608 - a constant
    delete=text('DELETE FROM inbox WHERE "messageId" = ANY (CAST(:keys AS uuid[]))'),
)
CALLBACK_INBOX: Final = Aged(
    table="callback_inbox",
    find=text("""
        SELECT "messageId" AS key, "receivedAt" AS at FROM callback_inbox
        WHERE "receivedAt" >= :after_at AND "receivedAt" < :before
            AND ("receivedAt", "messageId") > (:after_at, :after_key)
        ORDER BY "receivedAt", "messageId" LIMIT :most"""),
    delete=text('DELETE FROM callback_inbox WHERE "messageId" = ANY (CAST(:keys AS uuid[]))'),
)
# In the order of ids, which is that of their birth; their attempts go with them. What is being sent, or waits for it,
# stays. A redelivery may have come between the look and the lock, so it is looked for once more, under the lock.
DELIVERIES: Final = Aged(
    table="callback_deliveries",
    find=text("""
        SELECT id AS key, "createdAt" AS at FROM callback_deliveries
        WHERE id > :after_key AND id < :before_key AND "createdAt" < :before
            AND state <> 'PENDING' AND "leasedUntil" IS NULL
            AND NOT EXISTS (SELECT FROM callback_redeliveries WHERE "callbackId" = callback_deliveries.id)
        ORDER BY id LIMIT :most"""),
    delete=text("""
        DELETE FROM callback_deliveries AS d WHERE id = ANY (CAST(:keys AS uuid[]))
            AND NOT EXISTS (SELECT FROM callback_redeliveries WHERE "callbackId" = d.id)"""),
)
CALLBACK_TABLES: Final = (CALLBACK_INBOX.table, DELIVERIES.table)


def inbox_purges(config: InboxRetention, now: datetime) -> list[Purge]:
    """Return what the session worker forgets by age."""
    before = cutoff(now, config.inbox_retention_days)
    return [] if before is None else [INBOX.purge(before)]


def callback_purges(config: CallbackRetention, now: datetime) -> list[Purge]:
    """Return all that the callback worker purges."""
    ages = ((CALLBACK_INBOX, config.inbox_retention_days), (DELIVERIES, config.callback_log_retention_days))
    return [table.purge(before) for table, days in ages if (before := cutoff(now, days)) is not None]


def _locking(find: TextClause) -> TextClause:
    return text(f"{find.text} FOR UPDATE SKIP LOCKED")


def _parameters(find: TextClause, span: Span) -> Mapping[str, Any]:
    known = {
        "after_at": span.after.at,
        "after_key": span.after.id,
        "before": span.before,
        "before_key": least_id(span.before),
        "most": span.most,
    }
    return {name: known[name] for name in find.compile().params}


def _next(found: Sequence[Row[Any]], span: Span) -> Mark | None:
    return Mark(found[-1].at, found[-1].key) if len(found) == span.most else None

"""What a 410 ends: every further callback to that exact URL of that session or request, without an attempt.

The evidence is a delivery that failed as gone and an attempt of its own that was told so. Sent again by hand and
delivered, it is evidence no more, and what follows is sent as ever.
"""

from collections.abc import Collection, Iterable
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker import metrics
from callback_worker.store import Closing
from shared.callbacks import Reason, State
from shared.logs import get_logger

log = get_logger(__name__)

_TOLD = """
        SELECT wanted.id FROM wanted CROSS JOIN LATERAL (
            SELECT FROM callback_deliveries AS g
            WHERE g."{subject}" = wanted."{subject}" AND g.reason = 'gone' AND g.url = wanted.url AND EXISTS (
                SELECT FROM callback_attempts AS a WHERE a."callbackId" = g.id AND a."statusCode" = 410)
            LIMIT 1) AS told"""
# What was just inserted, or just closed to be tried again. Looked up one by one; and the state only afterwards, so that
# no index of all that waits is taken for a short way.
_END = text(
    """
    WITH wanted AS MATERIALIZED (
        SELECT id, "sessionId", "requestId", url FROM callback_deliveries WHERE id = ANY (CAST(:ids AS uuid[]))
    ), doomed AS (SESSIONS UNION REQUESTS
    )
    UPDATE callback_deliveries AS d SET state = 'FAILED', reason = 'gone', "nextAttemptAt" = NULL, "leasedUntil" = NULL,
        "attemptCount" = (SELECT count(*) FROM callback_attempts AS a
            WHERE a."callbackId" = d.id AND a.outcome <> 'not_made')
    FROM doomed WHERE d.id = doomed.id AND d.state = 'PENDING' RETURNING d.id""".replace(
        "SESSIONS", _TOLD.format(subject="sessionId")
    ).replace("REQUESTS", _TOLD.format(subject="requestId"))
)
# What waits beside one that has just been told; what is in hand finds out by itself.
_END_WAITING = text("""
    WITH told AS MATERIALIZED (
        SELECT "sessionId", "requestId", url FROM callback_deliveries WHERE id = ANY (CAST(:ids AS uuid[]))
    ), beside AS MATERIALIZED (
        SELECT d.id, d.state FROM told JOIN callback_deliveries AS d
            ON d.url = told.url AND (d."sessionId" = told."sessionId" OR d."requestId" = told."requestId")
    ), waiting AS (
        SELECT d.id FROM beside JOIN callback_deliveries AS d ON d.id = beside.id
        WHERE beside.state = 'PENDING' AND d.state = 'PENDING' AND d."leasedUntil" IS NULL
        FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE callback_deliveries AS d SET state = 'FAILED', reason = 'gone', "nextAttemptAt" = NULL
    FROM waiting WHERE d.id = waiting.id RETURNING d.id""")


def tell_gone(ids: Collection[UUID]) -> None:
    """Count and log those that were ended."""
    for callback_id in ids:
        metrics.delivery_count(str(Reason.GONE)).inc()
        log.warning("delivery_failed", callback_id=str(callback_id), reason=str(Reason.GONE), next="the URL said 410")


async def end_after(tx: AsyncConnection, closed: Iterable[Closing]) -> set[UUID]:
    """End what these results leave without a prospect: what waits beside a 410, and what one was told meanwhile."""
    told, retried = set(), set()
    for closing in closed:
        if closing.next.reason is Reason.GONE:
            told.add(closing.attempt.callback_id)
        elif closing.next.state is State.PENDING:
            retried.add(closing.attempt.callback_id)
    return await end_waiting(tx, told) | await end_gone(tx, retried)


async def end_gone(tx: AsyncConnection, ids: Collection[UUID]) -> set[UUID]:
    """End those of these pending deliveries whose URL is known to be gone, claimed or not; return them."""
    return set((await tx.execute(_END, {"ids": list(ids)})).scalars()) if ids else set()


async def end_waiting(tx: AsyncConnection, told: Collection[UUID]) -> set[UUID]:
    """End what waits for the URLs that these deliveries were told are gone; return them."""
    return set((await tx.execute(_END_WAITING, {"ids": list(told)})).scalars()) if told else set()

"""What is read and written about deliveries: plain functions over an open transaction, set-based.

Deliveries are locked before their attempts, everywhere, so workers cannot deadlock. The attempt number is the fencing
id: an attempt is closed only while it is open, and a delivery is changed only by whoever closed its attempt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker.delivery import Attempt, Next, Outcome, Result
from callback_worker.tables import attempts, deliveries
from shared.database import insert_rows

_ABANDON = text("""
    UPDATE callback_attempts SET outcome = 'ambiguous'
    WHERE "callbackId" = ANY (CAST(:ids AS uuid[])) AND outcome = 'open' """)

_CLOSE = text("""
    WITH result AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:numbers AS integer[]), CAST(:durations_ms AS integer[]),
            CAST(:outcomes AS text[]), CAST(:status_codes AS integer[]), CAST(:errors AS text[]),
            CAST(:response_bodies AS text[]), CAST(:states AS text[]), CAST(:reasons AS text[]),
            CAST(:next_attempts_at AS timestamptz[]))
        AS r (id, number, duration_ms, outcome, status_code, error, response_body, state, reason, next_attempt_at)
    ), closed AS (
        UPDATE callback_attempts AS a SET "durationMs" = r.duration_ms, outcome = r.outcome,
            "statusCode" = r.status_code, error = r.error, "responseBody" = r.response_body
        FROM result r WHERE a."callbackId" = r.id AND a.number = r.number AND a.outcome = 'open'
        RETURNING a."callbackId" AS id
    )
    UPDATE callback_deliveries AS d SET state = r.state, reason = r.reason, "nextAttemptAt" = r.next_attempt_at,
        "leasedUntil" = NULL, "deliveredAt" = CASE WHEN r.state = 'DELIVERED' THEN CAST(:now AS timestamptz) END
    FROM result r JOIN closed USING (id) WHERE d.id = r.id
    RETURNING d.id""")
# An attempt that was not made frees its number; only whoever has it open can give it back.
_GIVE_BACK = text("""
    WITH given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS integer[])) AS g (id, number)
    ), changed AS (
        UPDATE callback_attempts AS a SET outcome = 'not_made'
        FROM given g WHERE a."callbackId" = g.id AND a.number = g.number AND a.outcome = 'open'
        RETURNING g.id, a.manual
    )
    UPDATE callback_deliveries AS d SET "leasedUntil" = NULL, "attemptCount" = "attemptCount" - 1,
        "manualCount" = "manualCount" - CASE WHEN manual THEN 1 ELSE 0 END
    FROM changed WHERE d.id = changed.id""")
_REUSE = """
    ON CONFLICT ("callbackId", number) DO UPDATE
    SET "startedAt" = excluded."startedAt", outcome = excluded.outcome, manual = excluded.manual
    WHERE callback_attempts.outcome = 'not_made' RETURNING number"""
_LOCK = text("SELECT id FROM callback_deliveries WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


@dataclass(frozen=True, slots=True)
class Closing:
    """An attempt's result and what it makes of the delivery."""

    attempt: Attempt
    result: Result
    next: Next


async def insert_deliveries(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """Insert what is new; return the ids of those. An event that came twice is there already."""
    inserted = await insert_rows(tx, deliveries, rows, 'ON CONFLICT ("eventId", url) DO NOTHING RETURNING id')
    return set(inserted.scalars())


async def open_attempts(tx: AsyncConnection, opened: Sequence[Attempt], now: datetime) -> None:
    """Record that these attempts are about to be made."""
    rows = [
        {
            "callbackId": attempt.callback_id,
            "number": attempt.number,
            "startedAt": now,
            "outcome": str(Outcome.OPEN),
            "manual": attempt.redelivery is not None,
        }
        for attempt in opened
    ]
    if rows:
        inserted = (await insert_rows(tx, attempts, rows, _REUSE)).all()
        assert len(inserted) == len(rows), "an attempt's number is its delivery's own count"


async def lock(tx: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Lock these deliveries, in the one order that all use."""
    await tx.execute(_LOCK, {"ids": ids})


async def abandon(tx: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Say of the open attempts of these deliveries that their worker did not live to tell."""
    if ids:
        await tx.execute(_ABANDON, {"ids": ids})


async def give_back(tx: AsyncConnection, unmade: Sequence[Attempt]) -> None:
    """Undo the claims of attempts that were not made: due as before, for any worker, with no attempt used up."""
    ids = [attempt.callback_id for attempt in unmade]
    await lock(tx, ids)
    await tx.execute(_GIVE_BACK, {"ids": ids, "numbers": [attempt.number for attempt in unmade]})


async def close_attempts(tx: AsyncConnection, closings: Sequence[Closing], now: datetime) -> set[UUID]:
    """Write the results; return the deliveries changed. The others' attempts were taken over meanwhile."""
    ids = [closing.attempt.callback_id for closing in closings]
    await lock(tx, ids)
    parameters = {
        "ids": ids,
        "numbers": [closing.attempt.number for closing in closings],
        "durations_ms": [closing.result.duration_ms for closing in closings],
        "outcomes": [str(closing.result.outcome) for closing in closings],
        "status_codes": [closing.result.status_code for closing in closings],
        "errors": [closing.result.error for closing in closings],
        "response_bodies": [closing.result.response_body for closing in closings],
        "states": [str(closing.next.state) for closing in closings],
        "reasons": [None if closing.next.reason is None else str(closing.next.reason) for closing in closings],
        "next_attempts_at": [closing.next.next_attempt_at for closing in closings],
        "now": now,
    }
    return set((await tx.execute(_CLOSE, parameters)).scalars())

"""What is read and written about redeliveries: plain functions over an open transaction.

A redelivery is a row until its attempt is closed: the delivery's id, and the id of the command that asked for it, which
makes it happen once. Its attempt takes the delivery's lease and its next number, as any other attempt does, and so is
fenced like them; it leaves state and schedule as they are, unless it delivers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker.delivery import Attempt
from callback_worker.store import Closing, abandon, lock, open_attempts
from callback_worker.tables import redelivery_jobs
from shared.callback_commands import Redeliver
from shared.callback_filter import Condition, conditions_of
from shared.database import insert_rows

# Each step of a job reads so many deliveries at most, some 50 ms of work, whatever the filter finds.
STEP_MOST = 2000
# So many destinations get their turn in one claim; the next claim goes on behind them.
DESTINATIONS_PER_TURN = 200

_ADD = text("""
    INSERT INTO callback_redeliveries ("callbackId", "messageId", destination, "createdAt", "expiresAt")
    SELECT id, CAST(:message_id AS uuid), destination, CAST(:now AS timestamptz), CAST(:expires_at AS timestamptz)
    FROM callback_deliveries
    WHERE id = :callback_id AND (CAST(:client AS text) IS NULL OR client = :client)
    RETURNING "callbackId" """)
# One that is in flight waits still, in the second of the two tables.
_COUNT = text("""
    SELECT (SELECT count(*) FROM callback_attempts
            WHERE "callbackId" = d.id AND manual AND outcome NOT IN ('open', 'not_made') AND "startedAt" > :since)
        + (SELECT count(*) FROM callback_redeliveries WHERE "callbackId" = d.id)
    FROM callback_deliveries AS d WHERE d.id = :callback_id AND d.client = :client""")
_NEXT_JOB = text("""
    SELECT "messageId", filter, "afterId", "createdAt" FROM callback_redelivery_jobs
    ORDER BY "createdAt", "messageId" LIMIT 1 FOR UPDATE SKIP LOCKED""")
_GO_ON = text('UPDATE callback_redelivery_jobs SET "afterId" = :after_id WHERE "messageId" = :message_id')
_END_JOB = text('DELETE FROM callback_redelivery_jobs WHERE "messageId" = :message_id')
# Deliveries in the order of their birth, some at a time, so that a filter that finds little costs no more a step.
_STEP = """
    WITH stretch AS (
        SELECT id, destination, {matches} AS matches FROM callback_deliveries
        WHERE {indexed} ORDER BY id LIMIT :most
    ), added AS (
        INSERT INTO callback_redeliveries ("callbackId", "messageId", destination, "createdAt", "expiresAt")
        SELECT id, CAST(:message_id AS uuid), destination, CAST(:now AS timestamptz), CAST(:expires_at AS timestamptz)
        FROM stretch WHERE matches
        ON CONFLICT DO NOTHING RETURNING 1
    )
    SELECT (SELECT count(*) FROM stretch) AS seen, (SELECT id FROM stretch ORDER BY id DESC LIMIT 1) AS last_id,
        (SELECT count(*) FROM added) AS added"""
# What an index finds; the rest of a filter sifts the stretch that they give.
_INDEXED = ("id ", '"sessionId" ', '"requestId" ', "state ")

_EXPIRE = text("""
    DELETE FROM callback_redeliveries WHERE ("callbackId", "messageId") IN (
        SELECT "callbackId", "messageId" FROM callback_redeliveries WHERE "expiresAt" <= :now
        ORDER BY "expiresAt" LIMIT :most)""")
_WAITING = text("""
    WITH RECURSIVE steps (destination, number) AS (
        (SELECT destination, 1 FROM callback_redeliveries WHERE destination >= :first ORDER BY destination LIMIT 1)
        UNION ALL
        SELECT later.destination, steps.number + 1 FROM steps CROSS JOIN LATERAL (
            SELECT destination FROM callback_redeliveries WHERE destination > steps.destination
            ORDER BY destination LIMIT 1) AS later
        WHERE steps.number <= CAST(:most AS integer)
    )
    SELECT destination FROM steps ORDER BY destination""")
# Locked before anything is decided about them; a delivery whose attempt is in hand has its turn later.
_PICK = text("""
    SELECT d.id, d."leasedUntil" IS NOT NULL AS abandoned
    FROM unnest(CAST(:destinations AS text[]), CAST(:counts AS integer[])) AS wanted (destination, most)
    CROSS JOIN LATERAL (
        SELECT r."callbackId" FROM callback_redeliveries AS r JOIN callback_deliveries AS own ON own.id = r."callbackId"
        WHERE r.destination = wanted.destination AND own.id <> ALL (CAST(:in_hand AS uuid[]))
            AND (own."leasedUntil" IS NULL OR (CAST(:takes_over AS boolean) AND own."leasedUntil" <= :now))
        ORDER BY r."createdAt", r."callbackId" LIMIT wanted.most) AS turn
    JOIN callback_deliveries AS d ON d.id = turn."callbackId"
    WHERE d."leasedUntil" IS NULL OR (CAST(:takes_over AS boolean) AND d."leasedUntil" <= :now)
    FOR UPDATE OF d SKIP LOCKED""")
# A statement later than the lock, so it sees what was closed meanwhile: what another worker has done is not there.
_TAKE = text("""
    UPDATE callback_deliveries AS d SET "leasedUntil" = :leased_until, "attemptCount" = d."attemptCount" + 1,
        "manualCount" = d."manualCount" + 1
    FROM unnest(CAST(:ids AS uuid[])) AS picked (id) CROSS JOIN LATERAL (
        SELECT "messageId" FROM callback_redeliveries WHERE "callbackId" = picked.id
        ORDER BY "createdAt", "messageId" LIMIT 1) AS r
    WHERE d.id = picked.id
    RETURNING d.id, d."eventId", d.client, d.url, d.destination, d.body, d."attemptCount", d."manualCount",
        d."expiresAt", r."messageId" """)
_CLOSE = text("""
    WITH result AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:numbers AS integer[]), CAST(:redeliveries AS uuid[]),
            CAST(:durations_ms AS integer[]), CAST(:outcomes AS text[]), CAST(:status_codes AS integer[]),
            CAST(:errors AS text[]), CAST(:response_bodies AS text[]))
        AS r (id, number, redelivery, duration_ms, outcome, status_code, error, response_body)
    ), closed AS (
        UPDATE callback_attempts AS a SET "durationMs" = r.duration_ms, outcome = r.outcome,
            "statusCode" = r.status_code, error = r.error, "responseBody" = r.response_body
        FROM result r WHERE a."callbackId" = r.id AND a.number = r.number AND a.outcome = 'open'
        RETURNING r.id, r.redelivery, r.outcome = 'delivered' AS is_delivered
    ), done AS (
        DELETE FROM callback_redeliveries AS q USING closed
        WHERE q."callbackId" = closed.id AND q."messageId" = closed.redelivery
    )
    UPDATE callback_deliveries AS d SET "leasedUntil" = NULL,
        state = CASE WHEN is_delivered THEN 'DELIVERED' ELSE d.state END,
        reason = CASE WHEN is_delivered THEN NULL ELSE d.reason END,
        "nextAttemptAt" = CASE WHEN is_delivered THEN NULL ELSE d."nextAttemptAt" END,
        "deliveredAt" = CASE WHEN is_delivered THEN coalesce(d."deliveredAt", CAST(:now AS timestamptz))
            ELSE d."deliveredAt" END
    FROM closed WHERE d.id = closed.id
    RETURNING d.id""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a worker may take now: so many of each destination, nothing `in_hand`; `takes_over` as for any claim."""

    now: datetime
    leased_until: datetime
    counts: Mapping[str, int]
    in_hand: Sequence[UUID]
    takes_over: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """Attempts to make, and the deliveries whose last worker left an attempt open."""

    attempts: list[Attempt]
    abandoned: list[UUID]


async def add_redelivery(
    tx: AsyncConnection, callback_id: UUID, message_id: UUID, client: str | None, *, now: datetime, expires_at: datetime
) -> bool:
    """Queue one; return False where there is no such callback, of this client (None is anybody's)."""
    parameters = {
        "callback_id": callback_id, "message_id": message_id, "client": client, "now": now, "expires_at": expires_at,
    }  # fmt: skip
    return (await tx.execute(_ADD, parameters)).one_or_none() is not None


async def count_redeliveries(tx: AsyncConnection, callback_id: UUID, client: str, *, since: datetime) -> int:
    """Return how often a callback of this client was sent again since then, or is about to be."""
    found = await tx.execute(_COUNT, {"callback_id": callback_id, "client": client, "since": since})
    return int(found.scalar_one_or_none() or 0)


async def add_job(tx: AsyncConnection, wanted: Redeliver, message_id: UUID, now: datetime) -> None:
    """Keep a filter; `step` queues what it finds among the deliveries born before now."""
    content = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    job = {"messageId": message_id, "filter": content, "afterId": None, "createdAt": now}
    await insert_rows(tx, redelivery_jobs, [job])


async def step(tx: AsyncConnection, *, now: datetime, expires_at: datetime, most: int = STEP_MOST) -> int | None:
    """Go one step on in the oldest job that nobody else is at; return how many it queued, None without a job."""
    job = (await tx.execute(_NEXT_JOB)).one_or_none()
    if job is None:
        return None
    statement, parameters = _step_statement(Redeliver.model_validate(job.filter), job.afterId, job.createdAt)
    parameters |= {"message_id": job.messageId, "now": now, "expires_at": expires_at, "most": most}
    found = (await tx.execute(text(statement), parameters)).one()
    if found.seen < most:
        await tx.execute(_END_JOB, {"message_id": job.messageId})
    else:
        await tx.execute(_GO_ON, {"message_id": job.messageId, "after_id": found.last_id})
    return int(found.added)


def _step_statement(wanted: Redeliver, after: UUID | None, before: datetime) -> tuple[str, dict[str, Any]]:
    conditions = [*conditions_of(wanted), Condition('"createdAt" < {}', before)]
    if after is not None:
        conditions.append(Condition("id > {}", after))
    named = [condition.sql.format(f":value_{number}") for number, condition in enumerate(conditions)]
    indexed = [sql for sql in named if sql.startswith(_INDEXED)]
    others = [sql for sql in named if not sql.startswith(_INDEXED)]
    statement = _STEP.format(matches=" AND ".join(others), indexed=" AND ".join(indexed) or "true")
    values = {f"value_{number}": condition.value for number, condition in enumerate(conditions)}
    return statement, {name: value for name, value in values.items() if value is not None}


async def expire(tx: AsyncConnection, now: datetime) -> int:
    """Forget redeliveries that found no turn in time; return how many."""
    return (await tx.execute(_EXPIRE, {"now": now, "most": STEP_MOST})).rowcount


async def find_waiting(tx: AsyncConnection, first: str, most: int = DESTINATIONS_PER_TURN) -> list[str]:
    """Return destinations with redeliveries, in order, from `first` on; one more than `most` tells where to go on."""
    return list((await tx.execute(_WAITING, {"first": first, "most": most})).scalars())


async def take_redeliveries(tx: AsyncConnection, turn: Turn) -> Taken:
    """Lease the deliveries whose turn it is, and open their attempts."""
    parameters = {
        "destinations": list(turn.counts),
        "counts": list(turn.counts.values()),
        "in_hand": list(turn.in_hand),
        "takes_over": turn.takes_over,
        "now": turn.now,
    }
    picked = {row.id: row.abandoned for row in await tx.execute(_PICK, parameters)}
    if not picked:
        return Taken([], [])
    rows = (await tx.execute(_TAKE, {"ids": list(picked), "leased_until": turn.leased_until})).all()
    abandoned = [row.id for row in rows if picked[row.id]]
    await abandon(tx, abandoned)
    attempts = [_attempt(row, turn.leased_until) for row in rows]
    await open_attempts(tx, attempts, turn.now)
    return Taken(attempts, abandoned)


async def close_redeliveries(tx: AsyncConnection, closings: Sequence[Closing], now: datetime) -> set[UUID]:
    """Write the results of manual attempts; return the deliveries changed."""
    ids = [closing.attempt.callback_id for closing in closings]
    await lock(tx, ids)
    parameters = {
        "ids": ids,
        "numbers": [closing.attempt.number for closing in closings],
        "redeliveries": [closing.attempt.redelivery for closing in closings],
        "durations_ms": [closing.result.duration_ms for closing in closings],
        "outcomes": [str(closing.result.outcome) for closing in closings],
        "status_codes": [closing.result.status_code for closing in closings],
        "errors": [closing.result.error for closing in closings],
        "response_bodies": [closing.result.response_body for closing in closings],
        "now": now,
    }
    return set((await tx.execute(_CLOSE, parameters)).scalars())


def _attempt(row: Any, leased_until: datetime) -> Attempt:
    return Attempt(
        callback_id=row.id,
        event_id=row.eventId,
        number=row.attemptCount,
        client=row.client,
        redelivery=row.messageId,
        manual_count=row.manualCount,
        url=row.url,
        destination=row.destination,
        body=row.body,
        expires_at=row.expiresAt,
        leased_until=leased_until,
    )

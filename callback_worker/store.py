"""What is read and written about deliveries: plain functions over an open transaction, set-based.

Deliveries are locked before their attempts, everywhere, so workers cannot deadlock. The attempt number is the fencing
id: an attempt is closed only while it is open, and a delivery is changed only by whoever closed its attempt.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker.delivery import Attempt, Next, Outcome, Result, State
from callback_worker.tables import attempts, deliveries
from shared.database import insert_rows

# Finding a host takes one probe of an index, so this many take some tens of milliseconds and lock as many rows at most,
# however many hosts there are. The next claim goes on where this one ended.
HOSTS_PER_CLAIM = 1000

# The hosts with pending deliveries are stepped through by index, each with its earliest time; one more than are visited
# tells where to go on. Each gives its oldest due ones, up to its cap and its even share of the free slots: what is
# locked beyond need, no other worker can claim meanwhile. So the cost follows hosts and slots, not the backlog, and a
# host with a million due rows takes one turn like any other.
_CLAIM = text("""
    WITH RECURSIVE hosts (host, earliest, number) AS (
        (SELECT host, "nextAttemptAt", 1 FROM callback_deliveries
         WHERE state = 'PENDING' AND host >= :first_host ORDER BY host, "nextAttemptAt" LIMIT 1)
        UNION ALL
        SELECT later.host, later."nextAttemptAt", hosts.number + 1 FROM hosts CROSS JOIN LATERAL (
            SELECT host, "nextAttemptAt" FROM callback_deliveries
            WHERE state = 'PENDING' AND host > hosts.host ORDER BY host, "nextAttemptAt" LIMIT 1) AS later
        WHERE hosts.number <= CAST(:most_hosts AS integer)
    ), visited AS (
        SELECT host FROM hosts WHERE number <= CAST(:most_hosts AS integer) AND earliest <= :now
    ), due AS (
        SELECT d.* FROM visited
        LEFT JOIN unnest(CAST(:busy_hosts AS text[]), CAST(:busy_counts AS integer[])) AS busy (host, taken)
            ON busy.host = visited.host
        CROSS JOIN LATERAL (
            SELECT id, host, "nextAttemptAt", "leasedUntil" FROM callback_deliveries
            WHERE state = 'PENDING' AND host = visited.host AND "nextAttemptAt" <= :now
                AND ("leasedUntil" IS NULL OR (CAST(:takes_over AS boolean) AND "leasedUntil" <= :now))
                AND id <> ALL (CAST(:in_hand AS uuid[]))
            ORDER BY "nextAttemptAt"
            LIMIT greatest(0, least(:per_host - coalesce(busy.taken, 0),
                                    ceil(CAST(:most AS numeric) / (SELECT count(*) FROM visited))))
            FOR UPDATE SKIP LOCKED) AS d
    ), chosen AS (
        SELECT id, "leasedUntil" IS NOT NULL AS abandoned FROM (
            SELECT *, row_number() OVER (PARTITION BY host ORDER BY "nextAttemptAt") AS turn FROM due) AS ranked
        ORDER BY turn, "nextAttemptAt" LIMIT :most
    ), claimed AS (
        UPDATE callback_deliveries AS d SET
            state = CASE WHEN "expiresAt" > :now THEN 'PENDING' ELSE 'FAILED' END,
            reason = CASE WHEN "expiresAt" > :now THEN NULL ELSE 'expired' END,
            "nextAttemptAt" = CASE WHEN "expiresAt" > :now THEN "nextAttemptAt" END,
            "leasedUntil" = CASE WHEN "expiresAt" > :now THEN CAST(:leased_until AS timestamptz) END,
            "attemptCount" = "attemptCount" + CASE WHEN "expiresAt" > :now THEN 1 ELSE 0 END
        FROM chosen WHERE d.id = chosen.id
        RETURNING d.id, d."eventId", d.url, d.host, d.body, d.state, d."attemptCount", d."expiresAt", chosen.abandoned
    )
    SELECT unvisited.host AS next_host, claimed.*
    FROM (SELECT max(host) AS host FROM hosts WHERE number > CAST(:most_hosts AS integer)) AS unvisited
    LEFT JOIN claimed ON true""")

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
        FROM given g WHERE a."callbackId" = g.id AND a.number = g.number AND a.outcome = 'open' RETURNING g.id
    )
    UPDATE callback_deliveries AS d SET "leasedUntil" = NULL, "attemptCount" = "attemptCount" - 1
    FROM changed WHERE d.id = changed.id""")
_REUSE = """
    ON CONFLICT ("callbackId", number) DO UPDATE SET "startedAt" = excluded."startedAt", outcome = excluded.outcome
    WHERE callback_attempts.outcome = 'not_made' RETURNING number"""
_LOCK = text("SELECT id FROM callback_deliveries WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker may take: `most` in all, `per_host` less what is in flight to that host, nothing `in_hand`.

    Hosts are visited from `first_host` on ('' is the first of all), `most_hosts` of them. `takes_over` adds what was
    claimed by a worker whose lease has ended.
    """

    now: datetime
    leased_until: datetime
    most: int
    per_host: int
    taken: Mapping[str, int]
    in_hand: Collection[UUID]
    first_host: str = ""
    most_hosts: int = HOSTS_PER_CLAIM
    takes_over: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """Attempts to make, and the ids of deliveries whose last worker left an attempt open, and of expired ones.

    `next_host` is the first that was not visited, '' after the last of all.
    """

    attempts: list[Attempt]
    abandoned: list[UUID]
    expired: list[UUID]
    next_host: str


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
            "manual": False,
        }
        for attempt in opened
    ]
    if rows:
        inserted = (await insert_rows(tx, attempts, rows, _REUSE)).all()
        assert len(inserted) == len(rows), "an attempt's number is its delivery's own count"


async def claim_due(tx: AsyncConnection, claim: Claim) -> Claimed:
    """Lease due deliveries, fairly over hosts, and open their attempts; fail those that have expired."""
    parameters = {
        "now": claim.now,
        "leased_until": claim.leased_until,
        "most": claim.most,
        "per_host": claim.per_host,
        "busy_hosts": list(claim.taken),
        "busy_counts": list(claim.taken.values()),
        "in_hand": list(claim.in_hand),
        "first_host": claim.first_host,
        "most_hosts": claim.most_hosts,
        "takes_over": claim.takes_over,
    }
    found = (await tx.execute(_CLAIM, parameters)).all()
    rows = [row for row in found if row.id is not None]
    abandoned = [row.id for row in rows if row.abandoned]
    if abandoned:
        await tx.execute(_ABANDON, {"ids": abandoned})
    opened = [_attempt(row, claim.leased_until) for row in rows if row.state == State.PENDING]
    await open_attempts(tx, opened, claim.now)
    expired = [row.id for row in rows if row.state == State.FAILED]
    return Claimed(opened, abandoned, expired, found[0].next_host or "")


async def give_back(tx: AsyncConnection, unmade: Sequence[Attempt]) -> None:
    """Undo the claims of attempts that were not made: due as before, for any worker, with no attempt used up."""
    parameters = {"ids": [attempt.callback_id for attempt in unmade], "numbers": [attempt.number for attempt in unmade]}
    await tx.execute(_LOCK, {"ids": parameters["ids"]})
    await tx.execute(_GIVE_BACK, parameters)


async def close_attempts(tx: AsyncConnection, closings: Sequence[Closing], now: datetime) -> set[UUID]:
    """Write the results; return the deliveries changed. The others' attempts were taken over meanwhile."""
    ids = [closing.attempt.callback_id for closing in closings]
    await tx.execute(_LOCK, {"ids": ids})
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


def _attempt(row: Any, leased_until: datetime) -> Attempt:
    return Attempt(
        callback_id=row.id,
        event_id=row.eventId,
        number=row.attemptCount,
        url=row.url,
        host=row.host,
        body=row.body,
        expires_at=row.expiresAt,
        leased_until=leased_until,
    )

"""Which due deliveries a worker takes: one statement over an open transaction, fair over destinations.

It takes only what its destination's breaker and slots let through; what they refuse stays due and uses up no attempt.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker.delivery import Attempt
from callback_worker.store import abandon, open_attempts

# Finding a destination takes one probe of an index, so this many take some tens of milliseconds and lock as many rows
# at most, however many there are. The next claim goes on where this one ended.
DESTINATIONS_PER_CLAIM = 1000

_IS_DUE = """state = 'PENDING' AND "nextAttemptAt" <= :now AND "expiresAt" > :now
                AND ("leasedUntil" IS NULL OR (CAST(:takes_over AS boolean) AND "leasedUntil" <= :now))
                AND id <> ALL (CAST(:in_hand AS uuid[]))"""
# The destinations with pending deliveries are stepped through by index, each with its earliest time; one more than are
# visited tells where to go on. Each gives its oldest due deliveries, up to its cap and its even share of the free
# slots: what is locked beyond need, no other worker can claim meanwhile. So the cost follows destinations and slots and
# not the backlog, and a destination with a million due rows takes one turn like any other.
# One whose breaker is open gives nothing, until whoever locks its row first may probe it: with what became due last and
# was tried least, which is not the same broken URL each time, nor one delivery's whole schedule. Slots go to those with
# the fewest in flight, and as for newborn deliveries (slots.py) a destination never has more than are free then, nor
# one that is not `quick` more than are left of the slots for its like.
CLAIM = text(
    """
    WITH RECURSIVE steps (destination, earliest, number) AS (
        (SELECT destination, "nextAttemptAt", 1 FROM callback_deliveries
         WHERE state = 'PENDING' AND destination >= :first ORDER BY destination, "nextAttemptAt" LIMIT 1)
        UNION ALL
        SELECT later.destination, later."nextAttemptAt", steps.number + 1 FROM steps CROSS JOIN LATERAL (
            SELECT destination, "nextAttemptAt" FROM callback_deliveries
            WHERE state = 'PENDING' AND destination > steps.destination
            ORDER BY destination, "nextAttemptAt" LIMIT 1) AS later
        WHERE steps.number <= CAST(:most_destinations AS integer)
    ), visited AS (
        SELECT steps.destination, coalesce(busy.taken, 0) AS taken, quick.destination IS NULL AS "isUnproven" FROM steps
        LEFT JOIN unnest(CAST(:busy AS text[]), CAST(:busy_counts AS integer[])) AS busy (destination, taken)
            ON busy.destination = steps.destination
        LEFT JOIN unnest(CAST(:quick AS text[])) AS quick (destination) ON quick.destination = steps.destination
        WHERE number <= CAST(:most_destinations AS integer) AND earliest <= :now
            AND (quick.destination IS NOT NULL OR CAST(:unproven_spare AS integer) > 0)
    ), healthy AS (
        SELECT * FROM visited WHERE NOT EXISTS (
            SELECT FROM callback_hosts AS h WHERE h.destination = visited.destination AND h."openUntil" IS NOT NULL)
    ), probed AS (
        SELECT visited.* FROM callback_hosts AS h JOIN visited ON visited.destination = h.destination
        WHERE h."openUntil" <= :now AND (h."probeUntil" IS NULL OR h."probeUntil" <= :now)
        FOR UPDATE OF h SKIP LOCKED
    ), due AS (
        SELECT d.*, healthy.taken, healthy."isUnproven", false AS "isProbe" FROM healthy CROSS JOIN LATERAL (
            SELECT id, destination, "nextAttemptAt", "leasedUntil" FROM callback_deliveries
            WHERE destination = healthy.destination AND IS_DUE
            ORDER BY "nextAttemptAt"
            LIMIT greatest(0, least(:per_host - healthy.taken,
                                    ceil(CAST(:most AS numeric) / (SELECT count(*) FROM healthy))))
            FOR UPDATE SKIP LOCKED) AS d
    ), probes AS (
        SELECT d.*, probed.taken, probed."isUnproven", true AS "isProbe" FROM probed CROSS JOIN LATERAL (
            SELECT id, destination, "nextAttemptAt", "leasedUntil" FROM (
                SELECT id, destination, "nextAttemptAt", "leasedUntil", "attemptCount" FROM callback_deliveries
                WHERE destination = probed.destination AND IS_DUE
                ORDER BY "nextAttemptAt" DESC LIMIT 20 FOR UPDATE SKIP LOCKED) AS latest
            ORDER BY "attemptCount", "nextAttemptAt" DESC
            LIMIT least(1, greatest(0, :per_host - probed.taken))) AS d
    ), ranked AS (
        SELECT *, taken + row_number() OVER (PARTITION BY destination ORDER BY "nextAttemptAt") - 1 AS level
        FROM (SELECT * FROM due UNION ALL SELECT * FROM probes) AS candidates
    ), admitted AS (
        SELECT * FROM (
            SELECT *, row_number() OVER (PARTITION BY "isUnproven" ORDER BY level, "nextAttemptAt") - 1 AS place
            FROM ranked) AS placed
        WHERE NOT "isUnproven" OR level < CAST(:unproven_spare AS integer) - place
    ), chosen AS (
        SELECT id, "isProbe", "leasedUntil" IS NOT NULL AS "isAbandoned" FROM (
            SELECT *, row_number() OVER (ORDER BY level, "nextAttemptAt") - 1 AS turn FROM admitted) AS ordered
        WHERE turn < :most AND level < :spare - turn
    ), claimed AS (
        UPDATE callback_deliveries AS d
        SET "leasedUntil" = CAST(:leased_until AS timestamptz), "attemptCount" = "attemptCount" + 1
        FROM chosen WHERE d.id = chosen.id
        RETURNING d.id, d."eventId", d.client, d.url, d.destination, d.body, d."attemptCount", d."manualCount",
            d."expiresAt", chosen."isProbe", chosen."isAbandoned"
    ), probing AS (
        UPDATE callback_hosts AS h SET "probeId" = claimed.id, "probeUntil" = CAST(:leased_until AS timestamptz)
        FROM claimed WHERE claimed."isProbe" AND h.destination = claimed.destination
    )
    SELECT unvisited.destination AS next_destination, claimed.*
    FROM (SELECT max(destination) AS destination FROM steps WHERE number > CAST(:most_destinations AS integer))
        AS unvisited
    LEFT JOIN claimed ON true""".replace("IS_DUE", _IS_DUE)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker may take: `most` in all, `per_host` less what is in flight there, nothing `in_hand`.

    Destinations are visited from `first` on ('' is the first of all), `most_destinations` of them; none gets more than
    are left of `spare`, and all that are not `quick` together no more than are left of `unproven_spare`. `takes_over`
    adds what was claimed by a worker whose lease has ended.
    """

    now: datetime
    leased_until: datetime
    most: int
    spare: int
    unproven_spare: int
    per_host: int
    quick: Collection[str]
    taken: Mapping[str, int]
    in_hand: Collection[UUID]
    first: str = ""
    most_destinations: int = DESTINATIONS_PER_CLAIM
    takes_over: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """Attempts to make, and the ids of deliveries whose last worker left an attempt open.

    `next_destination` is the first that was not visited, '' after the last of all.
    """

    attempts: list[Attempt]
    abandoned: list[UUID]
    next_destination: str


async def claim_due(tx: AsyncConnection, claim: Claim) -> Claimed:
    """Lease due deliveries and open their attempts."""
    found = (await tx.execute(CLAIM, parameters_of(claim))).all()
    rows = [row for row in found if row.id is not None]
    abandoned = [row.id for row in rows if row.isAbandoned]
    await abandon(tx, abandoned)
    opened = [_attempt(row, claim.leased_until) for row in rows]
    await open_attempts(tx, opened, claim.now)
    return Claimed(opened, abandoned, found[0].next_destination or "")


def parameters_of(claim: Claim) -> dict[str, Any]:
    """Return what the statement takes."""
    return {
        "now": claim.now,
        "leased_until": claim.leased_until,
        "most": claim.most,
        "spare": claim.spare,
        "unproven_spare": claim.unproven_spare,
        "quick": list(claim.quick),
        "per_host": claim.per_host,
        "busy": list(claim.taken),
        "busy_counts": list(claim.taken.values()),
        "in_hand": list(claim.in_hand),
        "first": claim.first,
        "most_destinations": claim.most_destinations,
        "takes_over": claim.takes_over,
    }


def _attempt(row: Any, leased_until: datetime) -> Attempt:
    return Attempt(
        callback_id=row.id,
        event_id=row.eventId,
        number=row.attemptCount,
        client=row.client,
        manual_count=row.manualCount,
        is_probe=row.isProbe,
        url=row.url,
        destination=row.destination,
        body=row.body,
        expires_at=row.expiresAt,
        leased_until=leased_until,
    )

"""Deliveries in the database without a worker around them: rows, claims, results, at one moment of a standing clock."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.claims import Claim, Claimed, claim_due
from callback_worker.delivery import Attempt, Next, Outcome, Result
from callback_worker.hosts import Change, Hosts
from callback_worker.store import Closing, close_attempts, insert_deliveries
from shared.callbacks import State

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=25)
RETRY = Next(State.PENDING, next_attempt_at=NOW + timedelta(seconds=60))
DELIVERED = Next(State.DELIVERED)


def row(destination: str, **changes: Any) -> dict[str, Any]:
    """A delivery that is due."""
    defaults: dict[str, Any] = {
        "id": uuid4(), "eventId": uuid4(), "type": "session.started", "sessionId": None, "requestId": None,
        "client": None, "url": f"http://{destination}/", "host": destination, "destination": destination, "body": "{}",
        "state": "PENDING", "attemptCount": 0, "nextAttemptAt": NOW - timedelta(seconds=1), "leasedUntil": None,
        "expiresAt": NOW + timedelta(days=3), "createdAt": NOW,
    }  # fmt: skip
    return defaults | changes


async def insert(engine: AsyncEngine, *rows: dict[str, Any]) -> set[UUID]:
    async with engine.begin() as tx:
        return await insert_deliveries(tx, rows)


async def insert_backlog(database: asyncpg.Connection, destinations: str, count: int, *, due: str = "now()") -> None:
    """Insert so many due deliveries at once; `destinations` is SQL over `n`, from 1, as `due` is.

    An engine's connection would not wait for as long as a busy machine may take.
    """
    await database.execute(
        f"""INSERT INTO callback_deliveries (id, "eventId", type, url, host, destination, body, state,
            "attemptCount", "nextAttemptAt", "expiresAt", "createdAt")
        SELECT gen_random_uuid(), gen_random_uuid(), 't', 'http://' || ({destinations}) || '/', 'h',
            {destinations}, '{{"type": "t"}}', 'PENDING', 0, {due}, {due} + interval '3 days', {due}
        FROM generate_series(1, {count}) AS n"""
    )


def claim(
    *, now: datetime = NOW, most: int = 100, spare: int = 1000, unproven_spare: int | None = None, per_host: int = 20,
    taken: Mapping[str, int] | None = None, quick: Collection[str] = (), in_hand: Collection[UUID] = (), **others: Any,
) -> Claim:  # fmt: skip
    return Claim(
        now=now, leased_until=now + LEASE, most=most, spare=spare, per_host=per_host, taken=taken or {}, quick=quick,
        unproven_spare=spare if unproven_spare is None else unproven_spare, in_hand=in_hand, **others,
    )  # fmt: skip


async def claimed(engine: AsyncEngine, wanted: Claim) -> Claimed:
    async with engine.begin() as tx:
        return await claim_due(tx, wanted)


def closing(attempt: Attempt, outcome: Outcome, following: Next) -> Closing:
    return Closing(attempt, Result(outcome=outcome, duration_ms=5000, status_code=None), following)


async def close(engine: AsyncEngine, attempt: Attempt, following: Next) -> set[UUID]:
    async with engine.begin() as tx:
        return await close_attempts(tx, [closing(attempt, Outcome.DELIVERED, following)], NOW)


async def note(
    engine: AsyncEngine, hosts: Hosts, attempts: Collection[Attempt], outcome: Outcome, *, now: datetime = NOW
) -> list[Change]:
    """Write what attempts told about their hosts, as the results' transaction does, and take it into the view."""
    async with engine.begin() as tx:
        changes = await hosts.note(tx, [closing(attempt, outcome, RETRY) for attempt in attempts], now)
    hosts.apply(changes)
    return changes

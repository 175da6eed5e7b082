"""What a claim costs beside the backlog of one dead host, in pages and in time: EXPLAIN (ANALYZE, BUFFERS), undone."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bench.house import House, new_house, private_servers
from callback_worker.claims import CLAIM, Claim, parameters_of
from shared.database import create_engine

# Twice the default cap of a host, so that the smallest backlog already gives all that it may.
BACKLOGS = (0, 40, 1_000, 10_000, 100_000)
HEALTHY_HOSTS = 10
SLOTS, SLOTS_PER_HOST = 200, 20
DEAD = "dead.example:443"
EXPLAINED_TIMES = 7
# Well within the time that the product grants a statement.
CHUNK_ROWS = 20_000

_INSERT = text("""
    INSERT INTO callback_deliveries (id, "eventId", type, url, host, destination, body, state, "attemptCount",
        "nextAttemptAt", "expiresAt", "createdAt")
    SELECT gen_random_uuid(), gen_random_uuid(), 'session.completed', 'https://' || :name, :name,
        :name || CASE WHEN CAST(:is_spread AS boolean) THEN CAST(n AS text) ELSE '' END, repeat('x', 500), 'PENDING', 0,
        now(), now() + interval '3 days', now()
    FROM generate_series(1, CAST(:count AS integer)) AS n""")
_OPEN = text("""
    INSERT INTO callback_hosts VALUES (:destination, now(), 0, 0, '{}', 0, NULL, 1, now() + interval '1 minute')""")


@dataclass(frozen=True)
class Cost:
    """One claim's."""

    taken: int
    pages: int
    execution_ms: float


def run(console: Console) -> int:
    """Measure and print; return the exit status."""
    with private_servers(console) as servers, new_house(servers, "bench_claims") as house:
        return asyncio.run(_measure(console, house))


async def _measure(console: Console, house: House) -> int:
    table = Table("the dead host", "deliveries taken", "pages", "ms")
    engine = create_engine(house.database_url, name="bench", pool_size=1)
    async with engine.begin() as tx:
        await tx.execute(_INSERT, {"name": "healthy", "is_spread": True, "count": HEALTHY_HOSTS})
    there = 0
    for backlog in BACKLOGS:
        with console.status(f"{backlog:,} due deliveries to one host ..."):
            await _grow(engine, backlog - there)
            there = backlog
            _add(table, f"{backlog:,} due", await _cost(engine))
    plan = await _plan(engine)
    async with engine.begin() as tx:
        await tx.execute(_OPEN, {"destination": DEAD})
    _add(table, f"{there:,} due, its breaker open", await _cost(engine))
    await engine.dispose()
    console.print(table)
    console.print(f"Beside {there:,}:", *plan, sep="\n", markup=False, soft_wrap=True)
    return 0


async def _grow(engine: AsyncEngine, count: int) -> None:
    for inserted in range(0, count, CHUNK_ROWS):
        async with engine.begin() as tx:
            chunk = min(CHUNK_ROWS, count - inserted)
            await tx.execute(_INSERT, {"name": DEAD, "is_spread": False, "count": chunk})
    async with engine.connect() as tx:
        await (await tx.execution_options(isolation_level="AUTOCOMMIT")).execute(text("ANALYZE callback_deliveries"))


async def _cost(engine: AsyncEngine) -> Cost:
    """Explain some times; the first one reads pages that the others find in memory."""
    costs = [await _explained(engine, "FORMAT JSON") for _ in range(EXPLAINED_TIMES)]
    plans = [cost[0][0] for cost in costs]
    plan = plans[-1]["Plan"]
    return Cost(
        plan["Actual Rows"],
        plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        median(each["Execution Time"] for each in plans),
    )


async def _plan(engine: AsyncEngine) -> list[str]:
    return await _explained(engine, "COSTS OFF")


async def _explained(engine: AsyncEngine, option: str) -> list[Any]:
    now = datetime.now(UTC) + timedelta(seconds=1)
    wanted = Claim(
        now=now, leased_until=now, most=SLOTS, spare=SLOTS, unproven_spare=SLOTS, per_host=SLOTS_PER_HOST, taken={},
        quick=(), in_hand=[],
    )  # fmt: skip
    async with engine.connect() as tx:
        await _as_the_worker(tx)
        found = await tx.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, {option}) {CLAIM.text}"), parameters_of(wanted))
        lines = list(found.scalars())
        await tx.rollback()
    return lines


async def _as_the_worker(tx: AsyncConnection) -> None:
    """As the callback worker's connections have it."""
    await tx.execute(text("SET LOCAL enable_seqscan = off"))


def _add(table: Table, what: str, cost: Cost) -> None:
    table.add_row(what, str(cost.taken), str(cost.pages), f"{cost.execution_ms:.2f}")

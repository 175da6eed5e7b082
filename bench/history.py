"""Reads through the gateway and applied commands, beside 10 thousand sessions and beside many more.

Both databases live on the same servers and are called in turn: a busy machine disturbs both.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import aiohttp
import asyncpg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.house import House, new_house, private_servers, show_machine
from bench.partner import open_partner
from gateway.reads import Cursor

FEW_ROWS = 10_000
CALLS = 200
SESSIONS_APPLIED = 5_000
CHUNK = 500_000
# Ten million sessions reach back two years.
STEP = timedelta(seconds=6)
CHARGERS, DRIVERS = 500, 5_000
TARGET = 2.0
APPLY_TIMEOUT_S = 120
POLL_S = 0.1
SESSIONS_PATH = "/api/v1/session"

# The newest 200 are in progress, one in a hundred was cancelled. Random ids: the index's least friendly order.
_FILL = """
    INSERT INTO charging_sessions (id, "chargerId", "driverId", status, phase, "finalCost", currency, "energyKwh",
                                   "startedAt", "endedAt", "createdAt", "updatedAt", sequence, metadata)
    SELECT gen_random_uuid(), CASE WHEN n <= 200 THEN 'A-' || n ELSE 'C-' || n * 7919 % $4 END,
           'D-' || n * 104729 % $5, status, CASE status WHEN 'IN_PROGRESS' THEN 'ACTIVE' ELSE status END,
           CASE status WHEN 'COMPLETED' THEN (n % 5000) / 100.0 END, 'EUR', (n % 70000) / 1000.0,
           created, CASE WHEN status <> 'IN_PROGRESS' THEN created + interval '40 minutes' END, created, created, 2,
           '{"bay": 3, "location": "Station A", "maxPower": "150kW"}'
    FROM generate_series($1::bigint, $2::bigint) AS n,
         LATERAL (SELECT $3::timestamptz - n * interval '6 seconds' AS created,
                         CASE WHEN n <= 200 THEN 'IN_PROGRESS' WHEN n % 100 = 0 THEN 'CANCELLED' ELSE 'COMPLETED' END
                             AS status) AS made"""
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE tablename = 'charging_sessions' AND indexname <> 'charging_sessions_pkey'"""
# The last batch is still under way at its time: what came before it took from the first batch's time to the last's.
_APPLIED = """
    SELECT count(*) FILTER (WHERE at < last) / extract(epoch FROM max(last) - min(at))
    FROM (SELECT "receivedAt" AS at, max("receivedAt") OVER () AS last FROM inbox WHERE "receivedAt" > $1) AS applied"""


@dataclass
class Side:
    """One of the two databases, with the gateway and the worker over it."""

    house: House
    rows: int
    newest: datetime
    gateway_url: str = ""
    ids: list[UUID] = field(default_factory=list)
    # Of each figure one value a round: seconds a call, or seconds a command.
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def run(console: Console, *, rows: int, rounds: int) -> int:
    """Fill, measure and print; return the exit status."""
    newest = datetime.now(UTC) - timedelta(hours=1)
    with private_servers(console) as servers, ExitStack() as houses:
        sides = [
            Side(houses.enter_context(new_house(servers, f"bench_{name}")), count, newest)
            for name, count in (("few", FEW_ROWS), ("many", rows))
        ]
        return asyncio.run(_measure(console, sides, rounds))


async def _measure(console: Console, sides: list[Side], rounds: int) -> int:
    for side in sides:
        await _fill(console, side)
        side.gateway_url = (await side.house.processes.start("gateway")).url
    for number in range(rounds):
        with console.status(f"Round {number + 1} ..."):
            await _read(sides)
            for side in sides:
                side.figures["apply a command"].append(await _apply(side))
    _show(console, sides, rounds)
    database = await asyncpg.connect(sides[0].house.database_url)
    await show_machine(console, database)
    await database.close()
    return 0


async def _fill(console: Console, side: Side) -> None:
    """Load without the indexes and build them after it: ten times faster, the same table."""
    database = await asyncpg.connect(side.house.database_url)
    await database.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET jit = off")
    indexes = await database.fetch(_INDEXES)
    for index in indexes:
        await database.execute(f"DROP INDEX {index['indexname']}")
    await database.execute("ALTER TABLE charging_sessions DROP CONSTRAINT charging_sessions_pkey")
    with Progress(console=console) as progress:
        bar = progress.add_task(f"{side.rows:,} sessions", total=side.rows)
        for first, last in _chunks(side.rows):
            await database.execute(_FILL, first, last, side.newest, CHARGERS, DRIVERS)
            progress.update(bar, completed=last)
        bar = progress.add_task("indexes", total=len(indexes) + 2)
        await database.execute("ALTER TABLE charging_sessions ADD PRIMARY KEY (id)")
        progress.advance(bar)
        for index in indexes:
            await database.execute(index["indexdef"])
            progress.advance(bar)
        await database.execute("VACUUM (ANALYZE) charging_sessions")
        await database.execute("CHECKPOINT")
        progress.advance(bar)
    part = 100 * min(1.0, 40 * CALLS / side.rows)
    found = await database.fetch(f"SELECT id FROM charging_sessions TABLESAMPLE BERNOULLI ({part})")  # noqa: S608
    side.ids = [row["id"] for row in found]
    size = await database.fetchval("SELECT pg_size_pretty(pg_total_relation_size('charging_sessions'))")
    console.print(f"{side.rows:,} sessions: {size} with indexes", style="dim")
    await database.close()


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(1, rows + 1, CHUNK):
        yield first, min(first + CHUNK - 1, rows)


async def _read(sides: list[Side]) -> None:
    """Call one after the other, each database in turn; a figure is the median of its calls."""
    wanted = [_reads(side) for side in sides]
    async with aiohttp.ClientSession() as client:
        for name in wanted[0]:
            taken_s: list[list[float]] = [[] for _ in sides]
            for number in range(CALLS):
                for side, paths, taken in zip(sides, wanted, taken_s, strict=True):
                    taken.append(await _get(client, side.gateway_url + paths[name][number]))
            for side, taken in zip(sides, taken_s, strict=True):
                side.figures[name].append(median(taken))


async def _get(client: aiohttp.ClientSession, url: str) -> float:
    began = time.perf_counter()
    async with client.get(url) as answer:
        content = await answer.read()
    taken_s = time.perf_counter() - began
    if answer.status != 200:
        raise RuntimeError(f"{url} was answered {answer.status}: {content.decode()}")
    return taken_s


def _reads(side: Side) -> dict[str, list[str]]:
    def listed(**query: str) -> str:
        return f"{SESSIONS_PATH}?{urlencode(query)}"

    def somewhere() -> datetime:
        return side.newest - STEP * random.uniform(0.5, 0.95) * side.rows

    def range_of_a_day() -> str:
        until = somewhere()
        return listed(createdFrom=(until - timedelta(days=1)).isoformat(), createdTo=until.isoformat())

    every = range(CALLS)
    return {
        "get": [f"{SESSIONS_PATH}/{session_id}" for session_id in random.sample(side.ids, CALLS)],
        "list: first page": [SESSIONS_PATH for _ in every],
        "list: deep page": [listed(cursor=Cursor(somewhere(), UUID(int=0)).encode()) for _ in every],
        "list: charger": [listed(chargerId=f"C-{random.randrange(CHARGERS)}") for _ in every],
        "list: driver": [listed(driverId=f"D-{random.randrange(DRIVERS)}") for _ in every],
        "list: in progress": [listed(status="IN_PROGRESS") for _ in every],
        "list: cancelled": [listed(status="CANCELLED") for _ in every],
        "list: charger and status": [
            listed(chargerId=f"C-{random.randrange(CHARGERS)}", status="COMPLETED") for _ in every
        ],
        "list: a day": [range_of_a_day() for _ in every],
    }


async def _apply(side: Side) -> float:
    """Let a worker start on a queue of starts and stops; return the seconds that each took it."""
    commands: list[tuple[str, dict[str, Any]]] = []
    for _ in range(SESSIONS_APPLIED):
        session_id = str(uuid4())
        commands.append(("session.start.v1", {"sessionId": session_id, "chargerId": f"B-{session_id}"}))
        commands.append(("session.stop.v1", {"sessionId": session_id, "energyKwh": "12.34"}))
    async with open_partner(side.house.amqp_url, hears=False) as partner:
        await partner.publish_all(commands)
    began = datetime.now(UTC)
    database = await asyncpg.connect(side.house.database_url)
    worker = await side.house.processes.start("session_worker")
    async with asyncio.timeout(APPLY_TIMEOUT_S):
        while await database.fetchval('SELECT count(*) FROM inbox WHERE "receivedAt" > $1', began) < len(commands):
            await asyncio.sleep(POLL_S)
    per_s = float(await database.fetchval(_APPLIED, began))
    await worker.stop()
    await database.close()
    return 1 / per_s


def _show(console: Console, sides: list[Side], rounds: int) -> None:
    few, many = sides
    table = Table(
        "", f"{few.rows:,} sessions", f"{many.rows:,} sessions", "ratio",
        title=f"Medians of {rounds} rounds; targets: each ratio ≤ {TARGET:.0f}",
    )  # fmt: skip
    for name in few.figures:
        small, large = median(few.figures[name]), median(many.figures[name])
        table.add_row(name, _text(name, small), _text(name, large), f"{large / small:.2f}")
    console.print(table)


def _text(name: str, seconds: float) -> str:
    return f"{1 / seconds:,.0f} a second" if name.startswith("apply") else f"{seconds * 1000:.2f} ms"

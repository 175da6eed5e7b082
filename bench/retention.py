"""How long a million old rows of the inbox take to purge, and what that costs the commands that flow meanwhile."""

import asyncio
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table

from bench.house import House, new_house, private_servers, show_machine
from bench.partner import Partner, open_partner
from ops.local_stack.program import REPOSITORY

SESSIONS_PER_S = 40
# The purge is stopped and let go on in turn, for so long each: whatever else the machine does disturbs both alike.
WINDOW_S = 4.0
SETTLE_S = 0.5
LATENCY_TIMEOUT_S = 30.0

_FILL = """
    INSERT INTO inbox SELECT gen_random_uuid(), 'session.meter.v1', '\\x00', gen_random_uuid(), 'APPLIED', NULL,
        now() - interval '40 days' - n * interval '1 second' FROM generate_series(1, $1::int) AS n"""


class Load:
    """Sessions that start and stop at a steady rate; latencies from publish to the event, by what goes on beside."""

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self.beside: str | None = None
        self.latencies_s: dict[str, list[float]] = defaultdict(list)

    async def run(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._session())
                due += 1 / SESSIONS_PER_S
                await asyncio.sleep(due - time.monotonic())

    async def _session(self) -> None:
        session_id = str(uuid4())
        start = {"sessionId": session_id, "chargerId": f"C-{session_id}"}
        await self._timed("session.start.v1", start, "session.started")
        await self._timed("session.stop.v1", {"sessionId": session_id}, "session.completed")

    async def _timed(self, command: str, body: dict[str, str], event: str) -> None:
        beside, came, began_s = self.beside, self._partner.expect(body["sessionId"], event), time.perf_counter()
        async with asyncio.timeout(LATENCY_TIMEOUT_S):
            await self._partner.publish(command, body)
            taken_s = await came - began_s
        if beside is not None:
            self.latencies_s[beside].append(taken_s)


def run(console: Console, *, rows: int) -> int:
    """Measure and print; return the exit status."""
    with private_servers(console) as servers, new_house(servers, "bench_retention") as house:
        return asyncio.run(_measure(console, house, rows))


async def _measure(console: Console, house: House, rows: int) -> int:
    database = await asyncpg.connect(house.database_url)
    with console.status(f"{rows:,} old messages ..."):
        await database.execute(_FILL, rows)
        await database.execute("VACUUM ANALYZE inbox")
        await database.execute("CHECKPOINT")
    await house.processes.start("session_worker")
    async with open_partner(house.amqp_url, hears=True) as partner, _running(Load(partner)) as load:
        with console.status("Purging, half of the time ..."):
            took_s = await _purge_by_turns(house, load)
    left = await database.fetchval("SELECT count(*) FROM inbox WHERE \"receivedAt\" < now() - interval '31 days'")
    console.print(f"{rows:,} rows went in {took_s:.0f} s, {left} are left.")
    _show(console, load.latencies_s)
    await show_machine(console, database)
    await database.close()
    return 0


async def _purge_by_turns(house: House, load: Load) -> float:
    """Run `ops maintain` to its end; return the seconds for which it was let."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "maintain", "--yes", cwd=REPOSITORY, env={"DATABASE_URL": house.database_url},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    ending, took_s = asyncio.create_task(child.communicate()), 0.0
    while not ending.done():
        began_s = time.monotonic()
        await _window(load, "a purge", ending)
        took_s += time.monotonic() - began_s
        if not ending.done():
            child.send_signal(signal.SIGSTOP)
            await _window(load, "nothing", ending)
            child.send_signal(signal.SIGCONT)
    _, said = await ending
    if child.returncode != 0:
        raise RuntimeError(said.decode())
    return took_s


async def _window(load: Load, beside: str, ending: asyncio.Task[tuple[bytes, bytes]]) -> None:
    await asyncio.sleep(SETTLE_S)
    load.beside = beside
    await asyncio.wait([ending], timeout=WINDOW_S)
    load.beside = None


@asynccontextmanager
async def _running(load: Load) -> AsyncIterator[Load]:
    task = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        task.cancel()
        await asyncio.wait([task])


def _show(console: Console, latencies_s: dict[str, list[float]]) -> None:
    table = Table("beside", "commands", "p50", "p99", title=f"{SESSIONS_PER_S} starts and stops a second; ms")
    found = {beside: quantiles(taken_s, n=100) for beside, taken_s in latencies_s.items()}
    for beside, each in found.items():
        table.add_row(beside, f"{len(latencies_s[beside]):,}", f"{each[49] * 1000:.1f}", f"{each[98] * 1000:.1f}")
    console.print(table)
    for name, index in (("p50", 49), ("p99", 98)):
        console.print(f"{name}, purge / nothing: [bold]{found['a purge'][index] / found['nothing'][index]:.2f}[/]")

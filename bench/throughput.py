"""How fast requests are acknowledged, applied and delivered, beside a bare call to the gateway.

Runs its own private servers and processes. Prints rates, CPU seconds per 1,000 requests by process, and the ratio of
an acknowledgement to a call that does nothing, which is what to compare between machines and versions.
"""

import asyncio
import os
import resource
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg
import orjson
from rich.console import Console
from rich.table import Table

from ops.local_stack.processes import Process
from ops.local_stack.stack import Stack, on_installed_stack
from ops.receiver import Receiver

REQUEST_COUNT = 4000
CONNECTIONS = 64
# Everything that is under way must end; a stuck run shall not hang a terminal.
TIMEOUT_S = 120
POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def run(console: Console) -> int:
    """Measure and print; return the exit status."""
    return on_installed_stack(console, lambda stack: _measure(console, stack), LOG_LEVEL="warning")


async def _measure(console: Console, stack: Stack) -> int:
    database = await asyncpg.connect(stack.database_url)
    receiver = Receiver(None)
    await receiver.open()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    try:
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession(stack.gateway_url, connector=connector) as client:
            await _post_all(client, receiver, 200)
            await _delivered(receiver, 200)
            bare_s = await _timed(lambda: _each(REQUEST_COUNT, lambda _: _get(client)))
            before = _cpu_s(stack)
            began = time.perf_counter()
            acknowledged_s = await _timed(lambda: _post_all(client, receiver, REQUEST_COUNT))
            await _applied(database, REQUEST_COUNT + 200)
            applied_s = time.perf_counter() - began
            await _delivered(receiver, REQUEST_COUNT + 200)
            delivered_s = time.perf_counter() - began
            cpu = {name: used - before[name] for name, used in _cpu_s(stack).items()}
    finally:
        await receiver.close()
        await database.close()
    _show(console, bare_s, {"acknowledged": acknowledged_s, "applied": applied_s, "delivered": delivered_s}, cpu)
    return 0


def _show(console: Console, bare_s: float, seconds: dict[str, float], cpu: dict[str, float]) -> None:
    stages = Table(
        "stage", "per second", "time / bare call", title=f"{REQUEST_COUNT:,} requests, {CONNECTIONS} connections"
    )
    stages.add_row("bare call (GET /livez)", f"{REQUEST_COUNT / bare_s:,.0f}", "1.00")
    for name, taken_s in seconds.items():
        stages.add_row(name, f"{REQUEST_COUNT / taken_s:,.0f}", f"{taken_s / bare_s:.2f}")
    console.print(stages)
    used = Table("process", "CPU s per 1,000 requests")
    for name, cpu_s in cpu.items():
        used.add_row(name, f"{cpu_s / REQUEST_COUNT * 1000:.2f}")
    console.print(used)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"The client shares the machine: its own peak was {peak_mib:.0f} MiB.", style="dim")


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _each(count: int, call: Callable[[int], Awaitable[None]]) -> None:
    """Make `count` calls over as many tasks as there are connections."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))


async def _get(client: aiohttp.ClientSession) -> None:
    async with client.get("/livez") as answer:
        await answer.read()


async def _post_all(client: aiohttp.ClientSession, receiver: Receiver, count: int) -> None:
    mark, url = secrets.token_hex(4), receiver.url("bench")

    async def post(number: int) -> None:
        body = orjson.dumps({"stationId": f"{mark}-{number}", "driverId": f"driver-{number}", "callbackUrl": url})
        headers = {"Content-Type": "application/json"}
        async with client.post("/api/charging-session-requests", data=body, headers=headers) as answer:
            if answer.status != 200:
                raise RuntimeError(f"answered {answer.status}: {await answer.text()}")

    await _each(count, post)


async def _applied(database: asyncpg.Connection, count: int) -> None:
    while await database.fetchval("SELECT count(*) FROM charging_sessions") < count:
        await asyncio.sleep(POLL_S)


async def _delivered(receiver: Receiver, count: int) -> None:
    while len(receiver.callbacks) < count:
        await asyncio.sleep(POLL_S)


def _cpu_s(stack: Stack) -> dict[str, float]:
    """Return the CPU seconds that each process has used so far (Linux)."""
    return {str(name): _used_s(process) for name, process in stack.by_name.items()}


def _used_s(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

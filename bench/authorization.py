"""Start and stop latency beside a stream of requests, while their authorization service answers, and while it hangs.

A latency runs from the publish of the command to its event, which is published after the commit. The states follow
each other in every round, under the same load, so that a busy machine disturbs all of them.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median, quantiles
from uuid import uuid4

import asyncpg
from aiohttp import web
from rich.console import Console
from rich.table import Table

from bench.house import House, new_house, private_servers, show_machine
from bench.partner import Partner, open_partner

REQUESTS_PER_S = 40
SESSIONS_PER_S = 40
# Shorter than the product's ten seconds, so that a window of the bench sees many deadlines.
AUTHORIZATION_TIMEOUT_S = 3
# A breaker that opened needs five seconds to close, a request its deadline: only then is a state steady.
SETTLE_S = 7.0
LATENCY_TIMEOUT_S = 30
TARGET = 1.5


class State(StrEnum):
    """What the service does; NO_REQUESTS is the same load without any request."""

    NO_REQUESTS = "no requests"
    ANSWERS = "answers at once"
    HANGS = "hangs"


@dataclass
class Service:
    """The authorization service."""

    state: State = State.ANSWERS
    asked: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def turn(self, state: State) -> None:
        """Go into this state; what hung is answered."""
        self.state = state
        self.released.set()
        self.released = asyncio.Event()

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.state is State.HANGS:
            await self.released.wait()
        return web.json_response({"allowed": "ALLOWED"})


# Of each round and state: the latencies of starts and of stops, in seconds.
Latencies = dict[tuple[int, State, str], list[float]]


@dataclass
class Load:
    """What is under way, and what was measured."""

    partner: Partner
    service: Service
    window: tuple[int, State] | None = None
    latencies: Latencies = field(default_factory=lambda: defaultdict(list))

    async def request(self) -> None:
        if self.service.state is not State.NO_REQUESTS:
            body = {"stationId": f"S-{uuid4()}", "driverId": "driver", "callbackUrl": "https://subscriber.example/x"}
            await self.partner.publish("session.request.v1", body)

    async def session(self) -> None:
        """Start a session, and stop it when it has started."""
        session_id = str(uuid4())
        start = {"sessionId": session_id, "chargerId": f"C-{session_id}"}
        await self._timed("start", session_id, "session.started", start)
        await self._timed("stop", session_id, "session.completed", {"sessionId": session_id})

    async def _timed(self, verb: str, session_id: str, event_type: str, body: dict[str, str]) -> None:
        window, came, began = self.window, self.partner.expect(session_id, event_type), time.perf_counter()
        async with asyncio.timeout(LATENCY_TIMEOUT_S):
            await self.partner.publish(f"session.{verb}.v1", body)
            taken_s = await came - began
        if window is not None:
            self.latencies[*window, verb].append(taken_s)


def run(console: Console, *, rounds: int, window_s: float) -> int:
    """Measure and print; return the exit status."""
    with private_servers(console) as servers, new_house(servers, "bench_authorization") as house:
        return asyncio.run(_measure(console, house, rounds, window_s))


async def _measure(console: Console, house: House, rounds: int, window_s: float) -> int:
    service = Service()
    database = await asyncpg.connect(house.database_url)
    async with _serving(service) as url, open_partner(house.amqp_url, hears=True) as partner:
        await house.processes.start(
            "session_worker",
            AUTHORIZATION="http",
            AUTHORIZATION_URL=url,
            AUTHORIZATION_TIMEOUT_S=str(AUTHORIZATION_TIMEOUT_S),
        )
        load = Load(partner, service)
        async with asyncio.TaskGroup() as tasks:
            streams = [
                tasks.create_task(_steadily(REQUESTS_PER_S, load.request)),
                tasks.create_task(_steadily(SESSIONS_PER_S, load.session)),
            ]
            for number in range(rounds):
                for state in State:
                    await _window(console, load, (number, state), window_s)
            for stream in streams:
                stream.cancel()
    _show(console, load.latencies, rounds)
    decisions = await database.fetch(
        "SELECT coalesce(decision, 'pending'), count(*) FROM charging_session_requests GROUP BY 1 ORDER BY 1"
    )
    await show_machine(console, database)
    console.print(
        f"Asked {service.asked:,} times; decisions: " + ", ".join(f"{row[0]} {row[1]:,}" for row in decisions),
        style="dim",
    )
    await database.close()
    return 0


async def _window(console: Console, load: Load, window: tuple[int, State], window_s: float) -> None:
    load.service.turn(window[1])
    with console.status(f"Round {window[0] + 1}: the service {window[1]} ..."):
        await asyncio.sleep(SETTLE_S)
        load.window = window
        await asyncio.sleep(window_s)
        load.window = None


async def _steadily(per_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Begin `work` so many times a second, however long each takes."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(_run(work))
            due += 1 / per_s
            await asyncio.sleep(due - loop.time())


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


@asynccontextmanager
async def _serving(service: Service) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/", service.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        service.turn(State.ANSWERS)
        await runner.cleanup()


def _show(console: Console, latencies: Latencies, rounds: int) -> None:
    table = Table(
        "the service", "start p50", "start p99", "stop p50", "stop p99",
        title=f"{SESSIONS_PER_S} sessions and {REQUESTS_PER_S} requests a second; ms, medians of {rounds} rounds",
    )  # fmt: skip
    for state in State:
        cells = [
            f"{_percentile_ms(latencies, state, verb, percent, rounds):.1f}"
            for verb in ("start", "stop")
            for percent in (50, 99)
        ]
        table.add_row(str(state), *cells)
    console.print(table)
    for verb in ("start", "stop"):
        hanging = _percentile_ms(latencies, State.HANGS, verb, 99, rounds)
        normal = _percentile_ms(latencies, State.ANSWERS, verb, 99, rounds)
        console.print(f"{verb} p99, hanging / answering: [bold]{hanging / normal:.2f}[/] (target ≤ {TARGET})")


def _percentile_ms(latencies: Latencies, state: State, verb: str, percent: int, rounds: int) -> float:
    """The median over the rounds: one stall of the machine is not the product's."""
    return 1000 * median(quantiles(latencies[number, state, verb], n=100)[percent - 1] for number in range(rounds))

"""What five dead subscribers of ten cost the other five: time from event to receipt, and the callback worker's memory.

The same five hosts are measured at the same rate in three runs: beside five others that answer, which is the load that
the house is built for; alone, which shows what any neighbours cost; and beside five that are dead from the first event
on, so what happens before their breakers open counts as well. Each run has a database, a vhost and a worker of its own,
with the defaults of the contract.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table

from bench.house import House, new_house, private_servers, show_machine
from bench.subscribers import ADDRESSES, Answering, Way, answering, dead, now_s
from ops.local_stack.processes import Process
from shared.broker.publisher import Outcome, Publisher
from shared.events import Event, EventType, outbox_entry, outgoing

SIGNING_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# The worker has imported, connected and prepared all by then; not measured.
WARM_UP_S = 3
CONFIRM_TIMEOUT_S = 10
# For the last callbacks to healthy hosts, after the last event.
LAST_CALLBACK_S = 30
SAMPLE_S = 0.5
POLL_S = 0.05
RATIO_TARGET = 2.0
GROWTH_TARGET_MB = 50


class Others(StrEnum):
    """What the other five hosts do."""

    ANSWER = "answer"
    ABSENT = "get nothing"
    DEAD = "are dead"


@dataclass(frozen=True)
class Figures:
    """What one run measured, of the five hosts that answer in both."""

    latencies_s: Sequence[float]
    missing: int
    growth_bytes: int
    aftermath: str

    def percentile_ms(self, percent: int) -> float:
        """Return so much per cent of the latencies' bound."""
        return 1000 * quantiles(self.latencies_s, n=100)[percent - 1]


# Of each kind of run, its rounds.
Rounds = dict[Others, list[Figures]]


def run(console: Console, *, rounds: int, seconds: float, per_s: int) -> int:
    """Measure and print; return the exit status."""
    found: Rounds = {others: [] for others in Others}
    with private_servers(console) as servers:
        for number in range(rounds):
            for others in Others:
                with (
                    console.status(f"Round {number + 1}: the others {others} ({seconds:g} s) ..."),
                    new_house(servers, f"bench_{others.name.lower()}_{number}") as house,
                ):
                    found[others].append(asyncio.run(_measure(house, others, seconds, per_s)))
        with new_house(servers, "bench_machine") as house:
            asyncio.run(_tell_machine(console, house))
    _show(console, found, f"{per_s} events a second over ten hosts for {seconds:g} s: the first five")
    return 0


async def _measure(house: House, others: Others, seconds: float, per_s: int) -> Figures:
    async with AsyncExitStack() as stack:
        measured = [await stack.enter_async_context(answering(address)) for address in ADDRESSES[:5]]
        urls = [host.url for host in measured]
        other_urls = await _open_others(stack, others)
        worker = await house.processes.start(
            "callback_worker", CALLBACK_SIGNING_KEYS=SIGNING_KEY, CALLBACK_ALLOWED_NETWORKS="127.0.0.0/8"
        )
        publisher = await stack.enter_async_context(_publishing(house.amqp_url))
        await _offer(publisher, urls, WARM_UP_S, per_s)
        resident_bytes = [_resident_bytes(worker)]
        sampling = asyncio.create_task(_sample(worker, resident_bytes))
        # The five get the same in every run.
        offered = await _offer(publisher, urls + other_urls, seconds, per_s if other_urls else per_s // 2)
        owed = {event_id: at for event_id, (url, at) in offered.items() if url in urls}
        came = await _all_came(measured, owed)
        sampling.cancel()
        aftermath = await _aftermath(house)
        # A drain would wait for the attempts that hang.
        await worker.kill()
    latencies_s = [came[event_id] - at for event_id, at in owed.items() if event_id in came]
    growth_bytes = max(resident_bytes) - resident_bytes[0]
    return Figures(latencies_s, len(owed) - len(latencies_s), growth_bytes, aftermath)


async def _open_others(stack: AsyncExitStack, others: Others) -> list[str]:
    """Return the URLs of the other five hosts, as far as they get anything."""
    addresses = ADDRESSES[5:]
    match others:
        case Others.ABSENT:
            return []
        case Others.ANSWER:
            return [(await stack.enter_async_context(answering(address))).url for address in addresses]
        case Others.DEAD:
            pairs = zip(addresses, Way, strict=True)
            return [await stack.enter_async_context(dead(address, way)) for address, way in pairs]


async def _offer(publisher: Publisher, urls: Sequence[str], seconds: float, per_s: int) -> dict[str, tuple[str, float]]:
    """Publish steadily, to each URL in turn; return by event id where it goes and when it was published."""
    offered: dict[str, tuple[str, float]] = {}
    loop = asyncio.get_running_loop()
    due = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for url in islice(cycle(urls), round(seconds * per_s)):
            event = _event(url)
            offered[str(event.event_id)] = (url, now_s())
            tasks.create_task(_publish(publisher, event))
            due += 1 / per_s
            await asyncio.sleep(due - loop.time())
    return offered


async def _publish(publisher: Publisher, event: Event) -> None:
    [outcome] = await publisher.publish([outgoing(outbox_entry(event))], timeout_s=CONFIRM_TIMEOUT_S)
    if outcome is not Outcome.CONFIRMED:
        raise RuntimeError(f"an event was not confirmed: {outcome}")


def _event(url: str) -> Event:
    session_id = uuid4()
    return Event(
        event_id=uuid4(), type=EventType.SESSION_COMPLETED, occurred_at=datetime.now(UTC),
        data={"sessionId": str(session_id), "sequence": 2, "energyKwh": "12.5", "finalCost": "4.38"},
        session_id=session_id, request_id=None, callback_url=url, client=None, caused_by=uuid4(),
    )  # fmt: skip


async def _all_came(hosts: Sequence[Answering], owed: dict[str, Any]) -> dict[str, float]:
    """Return when each event came, once all that are owed have, or it takes too long."""
    until = now_s() + LAST_CALLBACK_S
    while True:
        came = {event_id: at for host in hosts for event_id, at in host.came().items()}
        if owed.keys() <= came.keys() or now_s() > until:
            return came
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _publishing(amqp_url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(amqp_url, name="bench publishes events")
    running = asyncio.create_task(publisher.run())
    try:
        while publisher.fault() is not None:
            await asyncio.sleep(POLL_S)
        yield publisher
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _sample(worker: Process, samples: list[int]) -> None:
    while True:
        samples.append(_resident_bytes(worker))
        await asyncio.sleep(SAMPLE_S)


def _resident_bytes(process: Process) -> int:
    """Return what the process holds in memory (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def _aftermath(house: House) -> str:
    """Return what the dead hosts' deliveries came to, as the database has it."""
    database = await asyncpg.connect(house.database_url)
    waiting = await database.fetchval("SELECT count(*) FROM callback_deliveries WHERE state = 'PENDING'")
    unmade = await database.fetchval('SELECT count(*) FROM callback_deliveries WHERE "attemptCount" = 0')
    breakers = await database.fetchval('SELECT count(*) FROM callback_hosts WHERE "openUntil" IS NOT NULL')
    await database.close()
    return f"{waiting:,} deliveries wait, {unmade:,} of them for a first attempt; {breakers} breakers are open"


async def _tell_machine(console: Console, house: House) -> None:
    database = await asyncpg.connect(house.database_url)
    await show_machine(console, database)
    await database.close()


def _show(console: Console, found: Rounds, title: str) -> None:
    table = Table("the others", "p50 ms", "p99 ms", "not delivered", "memory growth MB", title=title)
    for others, rounds in found.items():
        for figures in rounds:
            table.add_row(
                str(others),
                f"{figures.percentile_ms(50):.1f}",
                f"{figures.percentile_ms(99):.1f}",
                str(figures.missing),
                f"{figures.growth_bytes / 1e6:.1f}",
            )
    console.print(table)
    for other in (Others.ANSWER, Others.ABSENT):
        ratios = {percent: _ratio(found, other, percent) for percent in (50, 99)}
        p99 = f"p99 [bold]{ratios[99]:.2f}[/] (target ≤ {RATIO_TARGET:g})"
        console.print(f"Others dead / others {other}: p50 {ratios[50]:.2f}, {p99}")
    growth = max(figures.growth_bytes for figures in found[Others.DEAD]) / 1e6
    console.print(f"Memory growth beside dead hosts: [bold]{growth:.1f} MB[/] (target < {GROWTH_TARGET_MB})")
    aftermath = found[Others.DEAD][-1].aftermath
    console.print(f"Dead hosts: {'; '.join(Way)}. After the last run {aftermath}.", style="dim")


def _ratio(found: Rounds, other: Others, percent: int) -> float:
    """The median over the rounds: a stall of the machine is not the product's."""
    pairs = zip(found[Others.DEAD], found[other], strict=True)
    return median(beside.percentile_ms(percent) / without.percentile_ms(percent) for beside, without in pairs)

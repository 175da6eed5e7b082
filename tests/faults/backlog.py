"""A million commands that wait: the workers are away, then come; memory stays bounded, callers are answered."""

import asyncio
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ops.local_stack.processes import Name
from shared.topology import PARTNERS, SESSION_COMMANDS
from tests.faults.crew import NeverFired
from tests.faults.liveness import says_ready_again
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

MILLION = 1_000_000
MIB = 1024 * 1024
# Commands are parked, for want of a session, for 15 min; then each is refused by an event.
STOP = "session.stop.v1"
# So many messages go to the socket in one piece; so many are unconfirmed at the most.
AT_ONCE = 1000
UNCONFIRMED_MOST = 20 * AT_ONCE
CONFIRM_WITHIN_S = 60
# Callers that are served meanwhile; what they send waits behind the backlog.
STORIES_PER_S = 2.0
# A broker that takes thousands a second may confirm later than callers wait; they are told so, and repeat.
REFUSED_SHARE_MOST = 0.02
# A worker holds 500 messages and a batch of 250 with its events; the rest is what Python keeps of what it freed.
PROCESS_GROWTH_MOST_MIB = 100
# The broker keeps an entry of some hundred bytes for a message that waits, its body lies on disk; beside them, caches
# and the write-ahead log's tables.
BROKER_GROWTH_MOST_MIB = 400
BROKER_BYTES_A_MESSAGE_MOST = 1024
# A million must be parked before the first of them are refused, after 15 min; two cores do some thousands.
PER_S_LEAST = 1200.0
WATCH_EVERY_S = 1.0

_PARKED = """SELECT count(*) FROM inbox WHERE "messageId" BETWEEN $1 AND $2 AND outcome = 'PARKED'"""
_ROWS = 'SELECT count(*) FROM parked_commands WHERE "messageId" BETWEEN $1 AND $2'


@dataclass
class Memory:
    """The most that each process, and the broker, has used, in MiB, and what its kind used before the backlog."""

    first: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    async def look(self, site: Site) -> None:
        used = {process.log.stem: _resident_mib(process.pid) for process in site.crew.everybody()}
        with suppress(Exception):  # the management API is slow at times; the next look is soon
            used["broker"] = (await site.broker.node_facts())["mem_used"] / MIB
        for name, mib in used.items():
            self.first.setdefault(_kind(name), mib)
            self.most[name] = max(mib, self.most.get(name, 0.0))

    async def watch(self, site: Site) -> None:
        while True:
            await self.look(site)
            await asyncio.sleep(WATCH_EVERY_S)

    def growth(self) -> dict[str, float]:
        return {name: most - self.first[_kind(name)] for name, most in self.most.items()}


def parked(count: int = MILLION) -> Fault:
    """So many stops of sessions that nobody has started; whole thousands of them."""
    count -= count % AT_ONCE

    async def inject(site: Site, load: Load) -> str:
        first = UUID(int=secrets.randbits(64) << 64)
        ids = (first, UUID(int=first.int + count - 1))
        memory, began = Memory(), time.monotonic()
        await memory.look(site)
        for worker in list(site.crew.members[Name.SESSION_WORKER]):
            site.crew.leave(worker)
            await worker.stop()
        watching = asyncio.create_task(memory.watch(site))
        try:
            await _publish(site.house.amqp_url, first, count)
            await _until_all_wait(site, count)
            published_s, began = time.monotonic() - began, time.monotonic()
            await asyncio.gather(*(site.crew.join(site.crew.launch(Name.SESSION_WORKER)) for _ in range(2)))
            await _until_all_parked(site, ids, count)
            handled_s = time.monotonic() - began
            await says_ready_again(site, Name.SESSION_WORKER)
        finally:
            watching.cancel()
        assert await site.database.value(_ROWS, *ids) == count, "some are in the inbox, and not parked"
        refused, asked = load.ledger.answers(), sum(len(entry.answers) for entry in load.ledger.entries)
        share = sum(refused.values()) / asked
        assert share <= REFUSED_SHARE_MOST, f"callers were refused meanwhile: {dict(refused)} of {asked}"
        _check(memory, count)
        grown = memory.growth()
        worker_mib = max(mib for name, mib in grown.items() if name.startswith(Name.SESSION_WORKER))
        told = f"worker +{worker_mib:.0f} MiB, broker +{grown['broker']:.0f} MiB"
        told += f"; {share:.1%} of callers refused"
        return f"{told}; waited after {published_s:.0f} s, parked after {handled_s:.0f} s, {count / handled_s:.0f}/s"

    return Fault(
        f"{count:,} parked commands", inject, rate=STORIES_PER_S, whole_for_s=math.inf,
        inject_most_s=120 + 2 * count / PER_S_LEAST,
    )  # fmt: skip


async def _publish(amqp_url: str, first: UUID, count: int) -> None:
    """Publish all of them, in pieces that the library would take minutes for, and wait for every confirm."""
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        underlay: Any = await channel.get_underlay_channel()
        confirms = Confirms(underlay)
        for piece in _pieces(underlay.number, first, count):
            await confirms.room()
            confirms.expect(AT_ONCE)
            await underlay.write_queue.put(ChannelFrame(piece, should_close=False))
        await confirms.all()


class Confirms:
    """The broker's receipts on one channel, counted in place of the library, which knows nothing of our frames."""

    def __init__(self, underlay: Any) -> None:
        self._last = 0
        self._open: dict[int, None] = {}
        self._changed = asyncio.Event()
        underlay._on_confirm_frame = self._take

    def expect(self, count: int) -> None:
        self._open.update(dict.fromkeys(range(self._last + 1, self._last + count + 1)))
        self._last += count

    async def room(self) -> None:
        """Wait until few are on their way."""
        while len(self._open) > UNCONFIRMED_MOST:
            await self._change()

    async def all(self) -> None:
        while self._open:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        async with asyncio.timeout(CONFIRM_WITHIN_S):
            await self._changed.wait()

    async def _take(self, frame: Any) -> None:
        if not isinstance(frame, Basic.Ack):
            raise NeverFired(f"the broker said {frame}")
        if frame.multiple:
            while self._open and (tag := next(iter(self._open))) <= frame.delivery_tag:
                del self._open[tag]
        else:
            self._open.pop(frame.delivery_tag, None)
        self._changed.set()


def _pieces(channel: int, first: UUID, count: int) -> Iterator[bytes]:
    """The frames of all messages, in pieces. All are of one length, so one of them is the pattern of the rest."""
    pattern = str(UUID(int=0))
    body = f'{{"sessionId": "{pattern}"}}'.encode()
    frames: list[Any] = [
        Basic.Publish(exchange=PARTNERS, routing_key=STOP),
        ContentHeader(body_size=len(body), properties=Basic.Properties(message_id=pattern, delivery_mode=2)),
        ContentBody(body),
    ]
    parts = ChannelFrame.marshall(channel, frames).payload.split(pattern.encode())
    for start in range(0, count, AT_ONCE):
        ids = (str(UUID(int=first.int + start + number)).encode() for number in range(AT_ONCE))
        yield b"".join(each.join(parts) for each in ids)


async def _until_all_wait(site: Site, count: int) -> None:
    """The broker's own counter says so, and the management API's, which is some seconds old."""
    async with asyncio.timeout(60 + count / PER_S_LEAST):
        while (await site.broker.depths([SESSION_COMMANDS]))[SESSION_COMMANDS] < count:
            await asyncio.sleep(WATCH_EVERY_S)
        while await site.broker.messages(SESSION_COMMANDS) < count:
            await asyncio.sleep(WATCH_EVERY_S)


async def _until_all_parked(site: Site, ids: tuple[UUID, UUID], count: int) -> None:
    """Progress all the while: a worker that says it is ready works."""
    done = -1
    while done < count:
        await asyncio.sleep(10 * WATCH_EVERY_S)
        before, done = done, await site.database.value(_PARKED, *ids)
        assert done > before, f"stuck at {done} of {count}"
    async with asyncio.timeout(60):
        while await site.broker.messages(SESSION_COMMANDS) > AT_ONCE:
            await asyncio.sleep(WATCH_EVERY_S)


def _check(memory: Memory, count: int) -> None:
    growth = memory.growth()
    broker_mib = growth.pop("broker")
    broker_most_mib = BROKER_GROWTH_MOST_MIB + count * BROKER_BYTES_A_MESSAGE_MOST / MIB
    assert broker_mib < broker_most_mib, f"the broker grew by {broker_mib:.0f} MiB"
    fat = {name: round(mib) for name, mib in growth.items() if mib > PROCESS_GROWTH_MOST_MIB}
    assert not fat, f"processes grew by MiB: {fat}"


def _kind(name: str) -> str:
    """Of a log's name, `session_worker-3`."""
    return name.partition("-")[0]


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0

"""Publishes committed events, and sweeps up after crashes.

The relay publishes straight from memory; an outbox row whose events are all confirmed is deleted in the next batch's
transaction. Whatever else happens (no confirm, a crash, a full queue), the row stays and the sweeper publishes it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker import store
from session_worker.apply import Staged, refuse_expired
from shared.broker.publisher import Outcome, Publisher
from shared.clock import now_utc
from shared.events import outgoing
from shared.logs import get_logger

log = get_logger(__name__)

EVENTS_PUBLISHED = Counter("voltline_events_published_total", "Events by the outcome of their publish", ["outcome"])

# Batches of events in flight: enough to keep the broker's fsync busy, few enough to bound memory.
BATCHES_IN_FLIGHT = 4
PUBLISH_TIMEOUT_S = 10.0
SWEEP_EVERY_S = 1.0
# Longer than a publish may take, so that the sweeper never races the relay of a living worker.
LEFT_BEHIND_AFTER = timedelta(seconds=12)
CLAIM_FOR = timedelta(seconds=30)
ROWS_PER_SWEEP = 10
PARKED_PER_SWEEP = 200


class Relay:
    """Publishes staged events in tasks of its own and remembers which outbox rows are done."""

    def __init__(self, publisher: Publisher, tasks: asyncio.TaskGroup) -> None:
        self._publisher = publisher
        self._tasks = tasks
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._done: list[UUID] = []

    async def submit(self, staged: Staged) -> None:
        """Begin to publish; waits only while too many batches are in flight."""
        await self._slots.acquire()
        self._tasks.create_task(self._publish_and_release(staged))

    def take_done(self) -> list[UUID]:
        """Return the outbox rows to delete; the caller gives them back when its transaction fails."""
        done, self._done = self._done, []
        return done

    def give_back(self, ids: Sequence[UUID]) -> None:
        self._done += ids

    async def finish(self) -> None:
        """Wait until nothing is in flight."""
        for _ in range(BATCHES_IN_FLIGHT):
            await self._slots.acquire()
        for _ in range(BATCHES_IN_FLIGHT):
            self._slots.release()

    async def _publish_and_release(self, staged: Staged) -> None:
        try:
            if await publish_entries(self._publisher, staged.entries):
                self._done.append(staged.outbox_id)
            else:
                log.warning("events_left_to_sweeper", outbox_id=str(staged.outbox_id), events=len(staged.entries))
        finally:
            self._slots.release()


async def publish_entries(publisher: Publisher, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Publish the events of one outbox row; return whether the broker has confirmed them all."""
    outcomes = await publisher.publish([outgoing(entry) for entry in entries], timeout_s=PUBLISH_TIMEOUT_S)
    for outcome in outcomes:
        EVENTS_PUBLISHED.labels(outcome).inc()
    return all(outcome is Outcome.CONFIRMED for outcome in outcomes)


class Sweeper:
    """Publishes what crashed workers left behind, refuses parked commands whose time is over, clears done rows."""

    def __init__(self, engine: AsyncEngine, publisher: Publisher, relay: Relay) -> None:
        self._engine = engine
        self._publisher = publisher
        self._relay = relay

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                busy = await self.run_once() > 0
            except Exception as error:  # the edge of a loop that must never end; the next sweep tries again
                log.warning("sweep_failed", reason=str(error).splitlines()[0] if str(error) else type(error).__name__)
                busy = False
            await asyncio.sleep(0 if busy else SWEEP_EVERY_S)

    async def run_once(self) -> int:
        """Do one round; return how many rows it moved."""
        return await self.clear_done() + await self._publish_left_behind() + await self._refuse_expired()

    async def clear_done(self) -> int:
        """Delete the outbox rows that no batch came along to delete."""
        done = self._relay.take_done()
        if not done:
            return 0
        try:
            async with self._engine.begin() as tx:
                await store.delete_outbox(tx, done)
        except BaseException:
            self._relay.give_back(done)
            raise
        return len(done)

    async def _publish_left_behind(self) -> int:
        if self._publisher.fault() is not None:
            return 0
        now = now_utc()
        async with self._engine.begin() as tx:
            rows = await store.claim_outbox(
                tx, now=now, older_than=now - LEFT_BEHIND_AFTER, until=now + CLAIM_FOR, most=ROWS_PER_SWEEP
            )
        done = [outbox_id for outbox_id, events in rows if await publish_entries(self._publisher, orjson.loads(events))]
        self._relay.give_back(done)
        if rows:
            log.info("events_swept", rows=len(rows), published=len(done))
        return len(done)

    async def _refuse_expired(self) -> int:
        count, staged = await refuse_expired(self._engine, now=now_utc(), most=PARKED_PER_SWEEP)
        if staged is not None:
            await self._relay.submit(staged)
        return count

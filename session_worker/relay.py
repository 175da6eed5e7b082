"""Publishes committed events.

The relay publishes straight from memory; an outbox row whose events are all confirmed is deleted in the next batch's
transaction. Whatever else happens (no confirm, a crash, a full queue), the row stays and the sweeper publishes it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prometheus_client import Counter

from session_worker.apply import Staged
from shared import crash_points
from shared.broker.publisher import Outcome, Publisher
from shared.events import outgoing
from shared.logs import get_logger

log = get_logger(__name__)

EVENTS_PUBLISHED = Counter("voltline_events_published_total", "Events by the outcome of their publish", ["outcome"])

# Batches of events in flight: enough to keep the broker's fsync busy, few enough to bound memory.
BATCHES_IN_FLIGHT = 4
PUBLISH_TIMEOUT_S = 10.0


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
            await crash_points.linger("session_worker.between_ack_and_publish")
            if await publish_entries(self._publisher, staged.entries):
                crash_points.reach("session_worker.between_publish_and_delete")
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

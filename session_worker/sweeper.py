"""Does what no message brings about: asks the time, publishes what crashed workers left, and ends what time ends.

Any number of workers sweep at once: each row is claimed, or looked at again under its lock.
"""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker import store
from session_worker.apply import Policy, Staged
from session_worker.authorizer import Authorizer
from session_worker.overdue import end_stale, refuse_expired, time_out
from session_worker.relay import Relay, publish_entries
from shared.broker.publisher import Publisher
from shared.database_clock import DatabaseClock
from shared.failures import reason_of
from shared.logs import get_logger

log = get_logger(__name__)

SWEEP_EVERY_S = 1.0
# Longer than a publish may take, so that the sweeper never races the relay of a living worker.
LEFT_BEHIND_AFTER = timedelta(seconds=12)
CLAIM_FOR = timedelta(seconds=30)
ROWS_PER_SWEEP = 10
# Small transactions: a sweep never makes a batch wait for long.
OVERDUE_PER_SWEEP = 200


class Sweeper:
    """One round a second; more at once while there is more to do."""

    def __init__(
        self,
        engine: AsyncEngine,
        publisher: Publisher,
        relay: Relay,
        *,
        policy: Policy,
        authorizer: Authorizer | None,
        clock: DatabaseClock,
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._relay = relay
        self._policy = policy
        self._authorizer = authorizer
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                busy = await self.run_once() > 0
            except Exception as error:  # the edge of a loop that must never end; the next sweep tries again
                log.warning("sweep_failed", reason=reason_of(error))
                busy = False
            await asyncio.sleep(0 if busy else SWEEP_EVERY_S)

    async def run_once(self) -> int:
        """Do one round; return how many rows it moved."""
        await self._clock.ask()
        now, engine = self._clock.now(), self._engine
        moved = await self.clear_done() + await self._publish_left_behind()
        moved += await self._submitted(refuse_expired(engine, now=now, most=OVERDUE_PER_SWEEP))
        moved += await self._submitted(end_stale(engine, now=now, most=OVERDUE_PER_SWEEP))
        moved += await self._submitted(time_out(engine, now=now, policy=self._policy, most=OVERDUE_PER_SWEEP))
        if self._authorizer is not None:
            await self._authorizer.adopt(now)
        return moved

    async def clear_done(self) -> int:
        """Delete the outbox rows that no batch came along to delete. Left over, they are published once more."""
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
        if not self._publisher.is_connected:
            return 0
        now = self._clock.now()
        async with self._engine.begin() as tx:
            rows = await store.claim_outbox(
                tx, now=now, older_than=now - LEFT_BEHIND_AFTER, until=now + CLAIM_FOR, most=ROWS_PER_SWEEP
            )
        confirmed = await asyncio.gather(
            *(publish_entries(self._publisher, orjson.loads(events)) for _, events in rows)
        )
        done = [outbox_id for (outbox_id, _), is_done in zip(rows, confirmed, strict=True) if is_done]
        self._relay.give_back(done)
        if rows:
            log.info("events_swept", rows=len(rows), published=len(done))
        return len(done)

    async def _submitted(self, work: Awaitable[tuple[int, Staged | None]]) -> int:
        count, staged = await work
        if staged is not None:
            await self._relay.submit(staged)
        return count

"""Does what no message brings about: asks the time, publishes what crashed workers left, and ends what time ends.

Any number of workers sweep at once: each row is claimed, or looked at again under its lock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker import store
from session_worker.apply import Policy, Staged
from session_worker.authorizer import Authorizer
from session_worker.outcomes import tell
from session_worker.overdue import end_stale, refuse_expired, time_out
from session_worker.relay import Relay, publish_entries
from shared.broker.publisher import Publisher
from shared.database import is_outage
from shared.database_clock import DatabaseClock
from shared.failures import reason_of
from shared.logs import get_logger
from shared.loops import Turns
from shared.outages import SETTLING_S, was_away

log = get_logger(__name__)

SWEEP_EVERY_S = 1.0
# Longer than a publish may take, so that the sweeper never races the relay of a living worker.
LEFT_BEHIND_AFTER = timedelta(seconds=12)
CLAIM_FOR = timedelta(seconds=30)
ROWS_PER_SWEEP = 10
# Left behind, claimed, and published by then; and within the 30 s in which readiness says that they are not.
OUTBOX_STUCK_AFTER_S = 25.0
SETTLING = timedelta(seconds=SETTLING_S)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
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
        self._oldest_s = 0.0
        self._began: datetime | None = None
        self._is_away = False
        self._settled_at = _EVER
        self.turns = Turns("sweeping")

    def outbox_fault(self) -> str | None:
        """Return a word where committed events wait for the broker for too long, or None."""
        is_late = self._oldest_s > OUTBOX_STUCK_AFTER_S
        return f"committed events have waited to be published for {self._oldest_s:.0f} s" if is_late else None

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            with self.turns.turn():
                busy = await self.run_once() > 0
            await asyncio.sleep(0 if busy else SWEEP_EVERY_S)

    async def run_once(self) -> int:
        """Do one round; return how many rows it moved. What fails is tried again, and holds up no other duty.

        In an outage the round is over: each duty would wait for the same.
        """
        moved = 0
        for duty in self._duties():
            try:
                moved += await duty()
            except Exception as error:  # the edge of a loop that must never end
                self.turns.fail()
                log.warning("sweep_failed", duty=duty.__name__.strip("_"), reason=reason_of(error))
                if is_outage(error):
                    self._is_away = self._is_away or was_away(error)
                    break
        return moved

    def _duties(self) -> Sequence[Callable[[], Awaitable[int]]]:
        return (
            self._ask_time,
            self.clear_done,
            self._publish_left_behind,
            # At once: what is told of the outbox must not be as old as whatever hangs after it.
            self._look_at_outbox,
            self._refuse_expired,
            self._end_stale,
            self._time_out,
            self._adopt,
        )

    async def _ask_time(self) -> int:
        await self._clock.ask()
        self._began = self._began or self._clock.now()
        if self._is_away:
            self._is_away, self._settled_at = False, self._clock.now() + SETTLING
        return 0

    async def _refuse_expired(self) -> int:
        """Refuse what waited in vain; after an outage later, and later what had its time before this process began.

        The start may be in a worker's hands, or unread, ever since.
        """
        now, began = self._clock.now(), self._began
        if self._settles(now):
            return 0
        after = began if began is not None and began <= now < began + SETTLING else _EVER
        handled, staged = await refuse_expired(self._engine, after=after, now=now, most=OVERDUE_PER_SWEEP)
        tell(handled)
        await self._submit(staged)
        return len(handled)

    async def _end_stale(self) -> int:
        """End what nobody will stop any more; after an outage later, for its stop may be in a worker's hands."""
        now = self._clock.now()
        if self._settles(now):
            return 0
        return await self._submitted(end_stale(self._engine, now=now, most=OVERDUE_PER_SWEEP))

    def _settles(self, now: datetime) -> bool:
        """Whether an outage is so near that other workers may not have written yet what they held in it."""
        return self._settled_at - SETTLING <= now < self._settled_at

    async def _time_out(self) -> int:
        return await self._submitted(
            time_out(self._engine, now=self._clock.now(), policy=self._policy, most=OVERDUE_PER_SWEEP)
        )

    async def _adopt(self) -> int:
        if self._authorizer is not None:
            await self._authorizer.adopt(self._clock.now())
        return 0

    async def _look_at_outbox(self) -> int:
        """Note for how long the oldest event has waited, whoever had to publish it; 0 while there is none."""
        async with self._engine.connect() as tx:
            self._oldest_s = await store.outbox_age_s(tx)
        return 0

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
        await self._submit(staged)
        return count

    async def _submit(self, staged: Staged | None) -> None:
        if staged is not None:
            await self._relay.submit(staged)

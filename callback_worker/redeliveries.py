"""Makes the attempts that people asked for: through the slots of all attempts, at a pace for each destination.

What was asked for lies in Postgres. Killed at any line, the attempt counts as ambiguous once its lease ends, and is
made again by any worker.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker import metrics
from callback_worker.delivery import Outcome, Terms
from callback_worker.dispatch import Dispatcher
from callback_worker.pace import Pace
from callback_worker.patience import Patience
from callback_worker.redelivery_store import (
    DESTINATIONS_PER_TURN,
    Taken,
    Turn,
    expire,
    find_waiting,
    step,
    take_redeliveries,
)
from callback_worker.retries import Alarm
from callback_worker.slots import Slots
from shared.errors import Unavailable
from shared.failures import log_failure
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

# What was failing needs no flood on its first day back.
MOST_PER_HOST_AND_SECOND = 50
# While there is something to do, turns come this fast: a few each, so that new events find slots between them.
TURN_S = 0.2
PER_HOST_AND_TURN = 10
# Of the free slots in all, these take half at most; a single one may be it.
SHARE = 2


class Redeliveries:
    """The loop over redeliveries."""

    def __init__(
        self,
        patience: Patience,
        *,
        dispatcher: Dispatcher,
        slots: Slots,
        terms: Terms,
        alarm: Alarm,
        clock: Callable[[], datetime],
    ) -> None:
        self._patience = patience
        self._dispatcher = dispatcher
        self._slots = slots
        self._terms = terms
        self._alarm = alarm
        self._clock = clock
        self._pace = Pace(rate=MOST_PER_HOST_AND_SECOND, burst=PER_HOST_AND_TURN, now_s=time.monotonic)
        self._next = ""
        self._unserved = ""
        self._stopped = False
        self.turns = Turns("redeliveries")

    @property
    def keep_for(self) -> timedelta:
        """How long a redelivery may wait for its turn: as long as a delivery for its last attempt."""
        return timedelta(seconds=self._terms.expires_s)

    def wake(self) -> None:
        """Say that there is something new."""
        self._alarm.ring()

    def stop(self) -> None:
        """Begin no more."""
        self._stopped = True
        self._alarm.ring()

    async def run(self) -> None:
        """Take turns until stopped."""
        while not self._stopped:
            await self._alarm.wait()
            if self._stopped:
                return
            try:
                with self.turns.turn():
                    is_busy = await self._patience.until_done(
                        self.run_once, what="redeliveries", wanted=lambda: not self._stopped
                    )
            except Unavailable:
                return  # stopped, in an outage
            except Exception as error:  # the edge of a loop that must not end: the next turn tries again
                log_failure("redeliveries_failed", error)
            else:
                if is_busy:
                    self._alarm.ring_at(self._clock() + timedelta(seconds=TURN_S))

    async def run_once(self) -> bool:
        """Queue what a step of a filter finds, and make what has its turn; return whether there may be more."""
        # First what has its turn: a step that is slow, or fails, keeps nobody waiting.
        has_more = await self._take_turn()
        async with self._patience.engine.begin() as tx:
            now = self._clock()
            if dropped := await expire(tx, now):
                log.warning("redeliveries_expired", count=dropped, reason="found no turn in time")
            queued = await step(tx, now=now, expires_at=now + self.keep_for)
        if queued:
            log.info("redeliveries_queued", count=queued)
        return has_more or queued is not None

    async def _take_turn(self) -> bool:
        async with self._slots.claiming:
            async with self._patience.engine.begin() as tx:
                destinations = await find_waiting(tx, self._next)
                taken = await self._take(tx, destinations[:DESTINATIONS_PER_TURN])
            for attempt in taken.attempts:
                was_free = self._slots.occupy(attempt.destination)
                assert was_free, "turns are taken under the lock, within the free slots"
                self._pace.spend(attempt.destination)
        self._dispatcher.start(taken.attempts)
        self._pace.forget()
        _tell(taken)
        has_more = bool(destinations) or self._next != ""
        rest = destinations[DESTINATIONS_PER_TURN:]
        # Where the slots ran out, or the turn's bound; else from the first again.
        self._next = self._unserved or (rest[0] if rest else "")
        return has_more

    async def _take(self, tx: AsyncConnection, destinations: list[str]) -> Taken:
        counts = self._counts(destinations)
        if not counts:
            return Taken([], [])
        now = self._clock()
        turn = Turn(
            now=now,
            leased_until=now + timedelta(seconds=self._terms.lease_s),
            counts=counts,
            in_hand=list(self._dispatcher.in_hand()),
            takes_over=not self._patience.is_settling(),
        )
        return await take_redeliveries(tx, turn)

    def _counts(self, destinations: list[str]) -> Mapping[str, int]:
        """Return how many of each destination have their turn, within the share that all of them have together."""
        counts: dict[str, int] = {}
        self._unserved = ""
        room, unproven = -(-self._dispatcher.room() // SHARE), self._slots.unproven_spare
        for index, destination in enumerate(destinations):
            if room <= 0:
                self._unserved = destination
                break
            share = -(-room // (len(destinations) - index))
            free = min(self._slots.per_host, self._slots.spare_of(destination)) - self._slots.taken.get(destination, 0)
            count = min(share, free, self._pace.left(destination))
            if destination not in self._slots.quick:
                count = min(count, unproven)
            if count > 0:
                counts[destination] = count
                room -= count
                unproven -= 0 if destination in self._slots.quick else count
        return counts


def _tell(taken: Taken) -> None:
    for callback_id in taken.abandoned:
        metrics.attempt_count(str(Outcome.AMBIGUOUS)).inc()
        log.warning("attempt_ambiguous", callback_id=str(callback_id), next="a manual attempt follows")

"""Claims due deliveries from Postgres: retries, what was refused at birth, and what a dead worker left behind.

It is woken in the process by what becomes due or free here, and polls slowly for what happens elsewhere.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from callback_worker import metrics
from callback_worker.claims import Claim, Claimed, claim_due
from callback_worker.delivery import Outcome, Terms
from callback_worker.dispatch import Dispatcher
from callback_worker.patience import Patience
from callback_worker.slots import Slots
from shared.errors import Unavailable
from shared.failures import log_failure
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

# What another worker leaves behind is noticed this late; an idle poll costs one indexed query.
POLL_S = 1.0
# uvloop's timers count whole milliseconds and may ring one early, when nothing is due yet.
TIMER_SLACK_S = 0.002


class Alarm:
    """Wakes the loop now or at a time."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._rings = asyncio.Event()

    def ring(self) -> None:
        """Wake now."""
        self._rings.set()

    def ring_at(self, at: datetime) -> None:
        """Wake at a time; one beyond the next poll needs no timer."""
        delay_s = (at - self._clock()).total_seconds()
        if delay_s <= POLL_S:
            asyncio.get_running_loop().call_later(max(0.0, delay_s) + TIMER_SLACK_S, self._rings.set)

    async def wait(self) -> None:
        """Return when it rings, at the latest after the poll interval."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._rings.wait()
        except TimeoutError:
            pass
        self._rings.clear()


class Retries:
    """The claiming loop. `dispatcher` gets what it claims."""

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
        self._stopped = False
        self._more_is_due = False
        self._next_destination = ""
        self.turns = Turns("claiming due deliveries")
        slots.on_free = self._slot_freed

    def stop(self) -> None:
        """Claim no more."""
        self._stopped = True
        self._alarm.ring()

    def more_is_due(self) -> None:
        """Say that there are due deliveries that found no slot."""
        self._more_is_due = True
        if self._dispatcher.room() > 0:
            self._alarm.ring()

    def due_at(self, at: datetime) -> None:
        """Say that something is due at a time."""
        self._alarm.ring_at(at)

    async def run(self) -> None:
        """Claim until stopped."""
        while not self._stopped:
            await self._alarm.wait()
            try:
                await self.run_once()
            except Unavailable:
                return  # stopped, in an outage
            except Exception as error:  # the edge of a loop that must not end: the next poll tries again
                log_failure("claim_failed", error)

    async def run_once(self) -> int:
        """Claim what is due, as far as there are slots; return how many deliveries were taken.

        The destinations are visited in turn, some at a time, from where the last claim ended. It is over when no slot
        is free or all of them in a row gave nothing.
        """
        count, found, from_first = 0, 0, False
        while not self._stopped and self._dispatcher.room() > 0:
            if not self._next_destination:
                found, from_first = 0, True
            with self.turns.turn():
                taken = await self._patience.until_done(
                    self._take_turn, what="claims", wanted=lambda: not self._stopped
                )
            count, found = count + taken, found + taken
            if from_first and not self._next_destination and not found:
                break
        # Whoever has as many in flight as it may have may have more that is due; the slot that is freed next tells.
        self._more_is_due = count > 0 or self._slots.is_tight or self._next_destination != ""
        return count

    async def _take_turn(self) -> int:
        async with self._slots.claiming:
            claimed = await self._claim()
            for attempt in claimed.attempts:
                taken = self._slots.occupy(attempt.destination)
                assert taken, "claims are made under the lock, within the free slots"
        self._next_destination = claimed.next_destination
        # Also while draining: they are open in the database now, and the dispatcher gives back what is too late.
        self._dispatcher.start(claimed.attempts)
        _tell(claimed)
        return len(claimed.attempts)

    async def _claim(self) -> Claimed:
        now, slots = self._clock(), self._slots
        claim = Claim(
            now=now,
            leased_until=now + timedelta(seconds=self._terms.lease_s),
            most=max(0, self._dispatcher.room()),
            spare=slots.spare,
            unproven_spare=slots.unproven_spare,
            per_host=slots.per_host,
            # While there are enough slots for all, it does not matter which are for whom.
            quick=slots.quick if slots.unproven_spare < 2 * slots.kept else (),
            taken=self._slots.taken,
            in_hand=self._dispatcher.in_hand(),
            first=self._next_destination,
            takes_over=not self._patience.is_settling(),
        )
        async with self._patience.engine.begin() as tx:
            return await claim_due(tx, claim)

    def _slot_freed(self) -> None:
        if self._more_is_due:
            self._alarm.ring()


def _tell(claimed: Claimed) -> None:
    for callback_id in claimed.abandoned:
        metrics.attempt_count(str(Outcome.AMBIGUOUS)).inc()
        log.warning("attempt_ambiguous", callback_id=str(callback_id), next="repeated with the same webhook-id")

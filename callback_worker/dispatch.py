"""Sends out claimed attempts, each in a task of its own, and hands their results on to be written."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import UUID

from callback_worker import metrics
from callback_worker.delivery import Attempt, Outcome, Result, Terms
from callback_worker.results import Results
from callback_worker.sender import Sender
from callback_worker.slots import Slots
from shared import crash_points
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

# For hanging up on a subscriber after the attempt's deadline.
HANG_UP_S = 10.0


class Dispatcher:
    """Attempts in flight. Whoever calls `start` has taken a slot for each."""

    def __init__(
        self,
        sender: Sender,
        tasks: asyncio.TaskGroup,
        *,
        slots: Slots,
        results: Results,
        terms: Terms,
        clock: Callable[[], datetime],
    ) -> None:
        self._sender = sender
        self._tasks = tasks
        self._slots = slots
        self._results = results
        self._terms = terms
        self._clock = clock
        self._in_flight: dict[UUID, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._end_by: datetime | None = None
        self.turns = Turns("an attempt", stuck_after_s=terms.timeout_s + HANG_UP_S, may_fail=True)
        metrics.in_flight.set_function(lambda: len(self._in_flight))

    def room(self) -> int:
        """Return how many attempts more may be claimed now."""
        return min(self._slots.free, self._results.room())

    def in_hand(self) -> set[UUID]:
        """Return the deliveries whose attempt is in flight here, or whose result is yet to be written."""
        return self._in_flight.keys() | self._results.unwritten

    def start(self, attempts: Iterable[Attempt]) -> None:
        """Send the attempts; returns at once."""
        for attempt in attempts:
            self._in_flight[attempt.callback_id] = self._tasks.create_task(self._make(attempt))
            self._idle.clear()

    def end_by(self, at: datetime) -> None:
        """Begin no attempt any more that might not have ended by then."""
        self._end_by = at

    async def idle(self) -> None:
        """Wait until no attempt is in flight."""
        await self._idle.wait()

    def give_up(self) -> None:
        """Cancel what is in flight still; those attempts stay open and become ambiguous when their leases end."""
        for callback_id, task in self._in_flight.items():
            log.warning("attempt_given_up", callback_id=str(callback_id))
            task.cancel()

    async def _make(self, attempt: Attempt) -> None:
        try:
            now = self._clock()
            if (reason := self._too_late(attempt, now)) is not None:
                next_step = "its claim is undone; any worker makes it"
                log.warning("attempt_not_made", callback_id=str(attempt.callback_id), reason=reason, next=next_step)
                self._results.put_back(attempt)
                return
            if attempt.number == 1:
                metrics.observe_first_attempt(attempt.body, now)
            crash_points.reach("callback_worker.between_commit_and_post")
            with self.turns.turn():
                result = await self._sender.send(attempt)
            self._slots.note(attempt.destination, result.duration_ms / 1000)
            crash_points.reach("callback_worker.between_post_and_result")
            self._results.put(attempt, result)
            _tell(attempt, result)
        finally:
            del self._in_flight[attempt.callback_id]
            self._slots.give_back(attempt.destination)
            if not self._in_flight:
                self._idle.set()

    def _too_late(self, attempt: Attempt, now: datetime) -> str | None:
        """Return why the attempt might not end in time, or None."""
        ends_at = now + timedelta(seconds=self._terms.timeout_s)
        if self._end_by is not None and ends_at > self._end_by:
            return "the worker drains"
        # Its commit took so long that another worker may claim it before this attempt would end.
        return "its lease is almost over" if ends_at > attempt.leased_until else None


def _tell(attempt: Attempt, result: Result) -> None:
    metrics.attempt_count(str(result.outcome)).inc()
    # One line per delivered callback would cost as much as its HTTP request; it is there for who asks.
    say = log.debug if result.outcome is Outcome.DELIVERED else log.info
    say(
        "attempt_ended",
        callback_id=str(attempt.callback_id),
        event_id=str(attempt.event_id),
        number=attempt.number,
        destination=attempt.destination,
        outcome=str(result.outcome),
        status=result.status_code,
        duration_ms=result.duration_ms,
    )

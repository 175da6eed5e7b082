"""The database's time, by which all workers lease, expire and schedule, however wrong a host's own clock is.

The database is asked once a second; in between, its time is counted on by a clock that nobody sets. It is wrong by what
the quickest answer took, at most, and by what the database's clock was set since the last one.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import now_utc
from shared.logs import get_logger

log = get_logger(__name__)

# More than slow answers and drifting quartz explain, far less than the margin of a lease: somebody set the clock.
STEP_S = 1.0
# What age alone decides waits as long, after the database's clock was set by more: it may have been set wrong.
LEAP_S = 86_400.0
# A host whose own clock is off by this much dates its log lines wrongly, and needs its NTP looked at.
OFF_S = 5.0

_ASK = text("SELECT clock_timestamp()")
_own_clock = Gauge("voltline_own_clock_ahead_seconds", "By how much this host's clock is ahead of the database's.")


def elapsed_s() -> float:
    """Return seconds of a clock that is never set; on Linux it counts on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class DatabaseClock:
    """Its `now` is what processes pass in. Until the first answer that is the own clock, by which nothing is decided.

    `on_step` is called when the database's clock was set, or its host replaced by one whose clock differs.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        elapsed_s: Callable[[], float] = elapsed_s,
        own: Callable[[], datetime] = now_utc,
    ) -> None:
        # One SELECT, with no BEGIN and ROLLBACK around it.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._elapsed_s = elapsed_s
        self._own = own
        # What is added to the elapsed seconds.
        self._ahead_s = own().timestamp() - elapsed_s()
        self._told = asyncio.Event()
        self._said_off_s = 0.0
        self._leapt_s: float | None = None
        self.on_step: Callable[[], None] = lambda: None

    def now(self) -> datetime:
        """Return the time, aware and in UTC. An answer may set it back, by less than a millisecond as a rule."""
        return datetime.fromtimestamp(self._elapsed_s() + self._ahead_s, UTC)

    def has_leapt(self) -> bool:
        """Whether the database's clock was set by more than a day, within the last day of this process."""
        return self._leapt_s is not None and self._elapsed_s() - self._leapt_s < LEAP_S

    async def told(self, drain: asyncio.Event) -> bool:
        """Wait for the first answer, before which nothing may be decided; return False where the drain came first."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._told, drain)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._told.is_set()

    async def ask(self) -> None:
        """Ask the database once. Raises what it raises; the time goes on without it."""
        async with self._engine.connect() as connection:
            asked_s = self._elapsed_s()
            at: datetime = (await connection.execute(_ASK)).scalar_one()
            self.learn(at, asked_s=asked_s, answered_s=self._elapsed_s())

    def learn(self, at: datetime, *, asked_s: float, answered_s: float) -> None:
        """Take an answer: the database's time was `at` somewhere between the question and the answer.

        What was known moves only as far as that proves it wrong, so that a slow answer spoils no better one.
        """
        least_s, most_s = at.timestamp() - answered_s, at.timestamp() - asked_s
        if not self._told.is_set():
            self._ahead_s = (least_s + most_s) / 2
            self._told.set()
        else:
            self._move(min(max(self._ahead_s, least_s), most_s) - self._ahead_s)
        self._compare()

    def _move(self, by_s: float) -> None:
        self._ahead_s += by_s
        if abs(by_s) > LEAP_S:
            self._leapt_s = self._elapsed_s()
        if abs(by_s) > STEP_S:
            log.warning(
                "database_clock_stepped", by_s=round(by_s, 3), next="due times and leases are read by the new one"
            )
            self.on_step()

    def _compare(self) -> None:
        """Say it, once, when the own clock is wrong, is more wrong, or right again."""
        off_s = (self._own() - self.now()).total_seconds()
        _own_clock.set(off_s)
        if abs(off_s - self._said_off_s) > OFF_S:
            self._said_off_s = off_s
            next_step = "the database's time is used, but for the times of log lines"
            log.warning("own_clock_differs", ahead_s=round(off_s, 1), next=next_step)

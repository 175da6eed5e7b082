"""Database work that is repeated until the database has done it."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.broker.connection import backoff_s
from shared.database import is_outage, not_provisioned, ping, sqlstate
from shared.errors import Unavailable
from shared.failures import reason_of
from shared.logs import get_logger
from shared.outages import PASSING, SETTLING_S

log = get_logger(__name__)


Value = TypeVar("Value")


class Patience:
    """Waits for the database, for all loops of the process, and remembers when it came back."""

    def __init__(self, engine: AsyncEngine, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._now_s = now_s
        self._is_away = False
        self._settled_at_s = -math.inf

    async def until_done(self, work: Callable[[], Awaitable[Value]], *, what: str, wanted: Callable[[], bool]) -> Value:
        """Return what `work` returns, repeated through outages; raise Unavailable once it is not `wanted` any more.

        An error that no wait will mend is raised as it is.
        """
        failures = 0
        while True:
            try:
                value = await work()
            except Exception as error:  # sorted here: an outage is waited for, all else is the caller's
                if not await self._may_pass(error):
                    raise
                # A deadlock, or one statement that was too slow, says nothing about other workers' results.
                self._is_away = self._is_away or sqlstate(error) not in PASSING
                failures += 1
                delay_s = backoff_s(failures, random.random())
                log.warning("database_waits", what=what, reason=reason_of(error), retry_in_s=round(delay_s, 2))
            else:
                self._note_answer()
                return value
            await asyncio.sleep(delay_s)
            if not wanted():
                raise Unavailable(f"{what}: given up")

    def settle(self, seconds: float) -> None:
        """Say that for so long a lease that has ended says nothing about its worker."""
        self._settled_at_s = max(self._settled_at_s, self._now_s() + seconds)

    def is_settling(self) -> bool:
        """Whether no lease may be taken over: the database is away, or back so lately that results are on their way."""
        return self._is_away or self._now_s() < self._settled_at_s

    def _note_answer(self) -> None:
        if self._is_away:
            self._is_away = False
            self.settle(SETTLING_S)

    async def _may_pass(self, error: Exception) -> bool:
        """Whether the same work may succeed later. What looks like its own fault is none while nothing else works."""
        if not_provisioned(error) is not None or is_outage(error):
            return True
        try:
            await ping(self.engine)
        except Exception:  # whatever it is, the database does not answer
            return True
        return False

"""Database work that is repeated until the database has done it, and how a loop shows that it still turns."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.broker.connection import backoff_s
from shared.database import is_outage, not_provisioned
from shared.errors import Unavailable
from shared.logs import get_logger

log = get_logger(__name__)

# Longer than any turn takes that is not waiting for something; readiness must say so within 30 s.
STUCK_AFTER_S = 20.0

Value = TypeVar("Value")


async def until_done(work: Callable[[], Awaitable[Value]], *, what: str, wanted: Callable[[], bool]) -> Value:
    """Return what `work` returns, repeated through outages; raise Unavailable once it is not `wanted` any more.

    An error that no wait will mend is raised as it is.
    """
    failures = 0
    while True:
        try:
            return await work()
        except Exception as error:  # sorted here: an outage is waited for, all else is the caller's
            missing = not_provisioned(error)
            if missing is None and not is_outage(error):
                raise
            failures += 1
            delay_s = backoff_s(failures, random.random())
            log.warning("database_waits", what=what, reason=first_line(missing or error), retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)
        if not wanted():
            raise Unavailable(f"{what}: given up")


def first_line(error: Exception) -> str:
    """Return an error as one line of a log."""
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


class Turns:
    """Knows since when a loop has been in one turn. Waiting for work is no turn."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began_at: float | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Mark a turn."""
        self._began_at = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._began_at = None

    def fault(self) -> str | None:
        """Return a word when one turn takes too long, or None."""
        if self._began_at is None:
            return None
        age_s = asyncio.get_running_loop().time() - self._began_at
        return f"{self._what} has been waiting for {age_s:.0f} s" if age_s > STUCK_AFTER_S else None

"""How a process shows that it works: its loops run until the drain, and each says since when it has been at one turn.

A loop that ends before the drain, in whatever way, ends the process: half a process would look alive. A loop that
hangs, or achieves nothing turn after turn, is named by readiness within 30 s, until it goes on.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from shared import process
from shared.errors import VoltlineError
from shared.failures import log_failure
from shared.health import listed
from shared.logs import get_logger

log = get_logger(__name__)

# Longer than any turn takes that is not waiting for something; readiness must say so within 30 s.
STUCK_AFTER_S = 20.0

Work = Coroutine[Any, Any, None]


class LoopEnded(VoltlineError):
    """A loop ended that others count on."""


class Turns:
    """Knows since when a loop has been in one turn, or has failed in each. Waiting for work is no turn.

    Turns may overlap where several are taken at once; the oldest one counts. Where each is about something else
    (`may_fail`), one that fails says nothing about the loop.
    """

    def __init__(
        self,
        what: str,
        *,
        stuck_after_s: float = STUCK_AFTER_S,
        may_fail: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._may_fail = may_fail
        self._stuck_after_s = stuck_after_s
        self._now_s = now_s
        # In the order of their beginnings.
        self._began_at: dict[object, float] = {}
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self._has_failed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Mark a turn; it fails by an exception or by `fail`."""
        token = object()
        self._began_at[token], self._has_failed = self._now_s(), False
        try:
            yield
        except Exception:
            self._has_failed = True
            raise
        finally:
            del self._began_at[token]
            self._note_end(self._now_s())

    def fail(self) -> None:
        """Say that the turn at hand achieves nothing, although it ends well."""
        self._has_failed = True

    def fault(self) -> str | None:
        """Return a word when one turn takes too long or every turn has failed for too long, or None."""
        if self._began_at:
            age_s = self._now_s() - next(iter(self._began_at.values()))
            if age_s > self._stuck_after_s:
                return f"{self._what} has been waiting for {age_s:.0f} s"
        if self._failing_since is not None and (failing_s := self._failed_at - self._failing_since) > STUCK_AFTER_S:
            # From the first to the last failure: one that no turn followed yet is no row of them.
            return f"{self._what} has failed for {failing_s:.0f} s"
        return None

    def _note_end(self, now: float) -> None:
        if self._may_fail or not self._has_failed:
            self._failing_since = None
            return
        self._failed_at = now
        if self._failing_since is None:
            self._failing_since = now


class Loops:
    """The loops of one process, in its task group."""

    def __init__(
        self, tasks: asyncio.TaskGroup, drain: asyncio.Event, *, end_soon: Callable[[], None] = process.end_soon
    ) -> None:
        """`end_soon` ends the process where the other loops do not heed their cancellation."""
        self._tasks = tasks
        self._drain = drain
        self._end_soon = end_soon
        self._turns: list[Turns] = []

    def start(self, name: str, work: Work, *turns: Turns) -> "asyncio.Task[None]":
        """Run `work`, which may end only once the drain has begun; `turns` are what it says of itself."""
        self._turns += turns
        return self._tasks.create_task(self._run(name, work), name=name)

    def fault(self) -> str | None:
        """Return which loops are stuck, or None."""
        return listed(each.fault() for each in self._turns)

    async def _run(self, name: str, work: Work) -> None:
        try:
            await endless(name, work, may_end=self._drain.is_set)
        except LoopEnded as ended:
            log_failure("loop_ended", ended.__cause__ or ended, loop=name)
            self._end_soon()
            raise


async def endless(name: str, work: Work, *, may_end: Callable[[], bool] = lambda: False) -> None:
    """Run `work`; raise LoopEnded when it ends by itself, be it by a cancellation that nobody asked for.

    A task group takes a return and a cancellation for good ends, and libraries leak cancellations of their own.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        await work
    except asyncio.CancelledError as leaked:
        if task.cancelling():
            raise
        raise LoopEnded(f"{name} was cancelled by a library") from leaked
    except (Exception, SystemExit) as error:  # uvicorn leaves by SystemExit where it cannot start
        raise LoopEnded(f"{name} failed: {type(error).__name__}") from error
    if not may_end():
        raise LoopEnded(f"{name} returned")

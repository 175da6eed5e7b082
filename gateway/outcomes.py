"""Waits for the ends of published commands: one query a tick for all who wait, none while nobody does.

The workers' inboxes are the truth: a row of ours is our end, a row that another body made of our message id is not.
While the database is away there are no ends, and callers get the plain acknowledgement when their time is over.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway import metrics
from gateway.database import Database
from gateway.resources import Row
from shared.ids import conflict_id
from shared.logs import get_logger

log = get_logger(__name__)

# A command is applied within some 20 ms; waiting for its end costs half a tick more on average.
TICK_S = 0.05
# After a failed query; a database that has just come back is asked by every process.
PAUSE_S = 1.0
# Each is a connection, a task and two ids in the query, which stays within milliseconds.
MOST_WAITERS = 1000

_ENDS = """
    SELECT "messageId", "bodyHash", outcome, reason FROM inbox
    WHERE "messageId" = ANY(CAST(:ids AS uuid[])) AND outcome <> 'PARKED'
    UNION ALL
    SELECT "messageId", "bodyHash", outcome, reason FROM callback_inbox
    WHERE "messageId" = ANY(CAST(:ids AS uuid[]))"""


@dataclass(frozen=True, slots=True)
class End:
    """The one end of a command; a refused one has its stable reason."""

    is_applied: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """Somebody who waits for this message with this body. `conflict` is the inbox id if another body came first."""

    message: UUID
    conflict: UUID
    body_hash: bytes
    end: asyncio.Future[End | None] = field(repr=False)


class Outcomes:
    """The waiters of one process. `run` looks for their ends; `release` sends them away, and all who still come."""

    def __init__(self, database: Database, *, tick_s: float = TICK_S, most: int = MOST_WAITERS) -> None:
        self._database = database
        self._tick_s = tick_s
        self._most = most
        self._waiters: set[_Waiter] = set()
        self._wanted = asyncio.Event()
        self._is_released = False
        self._is_failing = False

    async def end_of(self, message: UUID, body_hash: bytes, *, wait_s: float) -> End | None:
        """Return the end of this message with this body; None when it has none within the time, or nobody looks."""
        if self._is_released or len(self._waiters) >= self._most:
            return None
        future: asyncio.Future[End | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(message, conflict_id(message, body_hash), body_hash, future)
        self._waiters.add(waiter)
        self._wanted.set()
        try:
            async with asyncio.timeout(wait_s):
                with metrics.waiters.track_inprogress():
                    return await future
        except TimeoutError:
            return None
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._wanted.clear()

    def release(self) -> None:
        """Let nobody wait any more: the process drains."""
        self._is_released = True
        self._tell(dict.fromkeys(self._waiters))

    async def run(self) -> None:
        """Look once a tick until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._tick_s)
            try:
                await self.run_once()
                self._is_failing = False
            except Exception as error:  # the loop's edge: whatever it is, it may be over at the next look
                self._note(error)
                await asyncio.sleep(PAUSE_S)

    async def run_once(self) -> int:
        """Ask for the ends of all who wait now, with one query; return how many were found."""
        waiters = tuple(self._waiters)
        if not waiters:
            return 0
        ids = {waiter.message for waiter in waiters} | {waiter.conflict for waiter in waiters}
        rows = await self._database.read(_ENDS, {"ids": list(ids)})
        found = {row["messageId"]: row for row in rows}
        ends = {waiter: end for waiter in waiters if (end := _end(waiter, found)) is not None}
        self._tell(ends)
        return len(ends)

    def _tell(self, ends: Mapping[_Waiter, End | None]) -> None:
        for waiter, end in ends.items():
            if not waiter.end.done():
                waiter.end.set_result(end)

    def _note(self, error: Exception) -> None:
        """One line an outage."""
        if not self._is_failing:
            log.warning("outcomes_unreadable", reason=str(error)[:300], waiters=len(self._waiters), answered="plain")
        self._is_failing = True


def _end(waiter: _Waiter, found: Mapping[UUID, Row]) -> End | None:
    row: Mapping[str, Any] | None = found.get(waiter.message)
    if row is None or bytes(row["bodyHash"]) != waiter.body_hash:
        row = found.get(waiter.conflict)
    return None if row is None else End(row["outcome"] == "APPLIED", row["reason"])

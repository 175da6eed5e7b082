"""Purges, beside a process's work, what the process need not keep: a turn an hour, on a connection of its own.

Nothing depends on it: what goes wrong is told, and tried again at the next turn. It may be cancelled at any moment.
A turn purges nothing by a time that two clocks do not agree on, or to which the database's has just leapt.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from prometheus_client import Counter as Metric
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import now_utc
from shared.database import create_engine
from shared.failures import reason_of
from shared.logs import get_logger
from shared.retention.age import doubt
from shared.retention.batches import Purge, database_time, work_off

log = get_logger(__name__)

PURGED_ROWS = Metric("voltline_purged_rows_total", "Rows that were too old to be kept, by table", ["table"])
LAST_PURGE = Gauge("voltline_last_purge_timestamp_seconds", "When a turn last did all it had to")

# What becomes old in an hour is some batches, and a turn that finds nothing costs some look-ups.
EVERY_S = 3_600.0
# Workers that start together take turns; one that is restarted every hour has its turn all the same.
FIRST_WITHIN_S = (60.0, 600.0)
JITTER = 0.25
LEAPT = "the database's clock was set by more than a day, less than a day ago"
TRIED_AGAIN = "tried again within two hours"
# A database that hangs does not even take a goodbye.
CLOSE_TIMEOUT_S = 2.0


class Caretaker:
    """Takes turns at what `purges` gives for the database's time, unless that `has_leapt`."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        purges: Callable[[datetime], Sequence[Purge]],
        has_leapt: Callable[[], bool],
    ) -> None:
        self._url = url
        self._name = f"{name} purges"
        self._purges = purges
        self._has_leapt = has_leapt

    async def run(self) -> None:
        """Purge until cancelled."""
        task = asyncio.current_task()
        assert task is not None
        delay_s = random.uniform(*FIRST_WITHIN_S)
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self.run_once()
            except asyncio.CancelledError as leaked:  # libraries leak cancellations that nobody asked for
                if task.cancelling():
                    raise
                log.warning("purge_failed", reason=str(leaked) or "cancelled by a library", next=TRIED_AGAIN)
            except Exception as error:  # the edge of a loop that must never end; the next turn tries again
                log.warning("purge_failed", reason=reason_of(error), next=TRIED_AGAIN)
            delay_s = EVERY_S * random.uniform(1 - JITTER, 1 + JITTER)

    async def run_once(self) -> Mapping[str, int]:
        """Take one turn; return how many rows went, by table."""
        engine = create_engine(self._url, name=self._name, pool_size=1)
        try:
            return await self._turn(engine)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await engine.dispose()

    async def _turn(self, engine: AsyncEngine) -> Mapping[str, int]:
        began_s, rows = time.monotonic(), Counter[str]()
        now = await database_time(engine)
        if reason := LEAPT if self._has_leapt() else doubt(now, now_utc()):
            log.warning("purge_skipped", reason=reason, next=TRIED_AGAIN)
            return rows
        failures = await work_off(engine, self._purges(now), lambda gone: _note(rows, gone))
        if rows.total():
            log.info("purged", rows=dict(+rows), took_s=round(time.monotonic() - began_s, 1))
        if failures:
            reasons = {name: reason_of(error) for name, error in failures.items()}
            log.warning("purge_failed", reasons=reasons, next=TRIED_AGAIN)
        else:
            LAST_PURGE.set_to_current_time()
        return rows


def _note(rows: Counter[str], gone: Mapping[str, int]) -> None:
    rows.update(gone)
    for table, count in gone.items():
        if count:
            PURGED_ROWS.labels(table).inc(count)

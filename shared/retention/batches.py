"""Works off what may go, batch after batch: each a short transaction that waits for nobody, then a rest.

Any number may do it at once, beside everything else: a row that somebody holds is passed over. Killed anywhere, what
was committed is gone, and the next turn goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.database import sqlstate

# Whoever waits for a row that is being purged waits for one batch.
STATEMENT_TIMEOUT_S: Final = 5
LOCK_TIMEOUT_S: Final = 0.2
# After a batch the connection rests four times as long as that took: a fifth of one connection's time at the most.
REST: Final = 4
# What takes longer is done in smaller batches; a batch of a tenth of that may grow again.
LONG_S: Final = 0.25
# A table that somebody has locked, or a statement that met something big, gets so many smaller tries.
TRIES: Final = 5
TRY_AGAIN_S: Final = 0.5
# Serialization failure, deadlock, lock not available, statement timeout.
_PASSING: Final = ("40001", "40P01", "55P03", "57014")

# Whoever deletes need not wait for the disk: what a crash brings back is purged again. Rows are found by index whatever
# the statistics say, with a plan for these very values: a kept one may sort all that is old.
_QUIETLY: Final = text(f"""
    SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT_S}s', true),
        set_config('lock_timeout', '{int(LOCK_TIMEOUT_S * 1000)}ms', true),
        set_config('synchronous_commit', 'off', true),
        set_config('enable_seqscan', 'off', true),
        set_config('plan_cache_mode', 'force_custom_plan', true)""")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a table that is walked in the order of time, then of ids."""

    at: datetime
    id: UUID


BEGINNING: Final = Mark(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What one batch looks at: `most` rows behind `after` that are older than `before`."""

    after: Mark
    before: datetime
    most: int


@dataclass(frozen=True, slots=True)
class Batch:
    """How many rows went, by table, and where the next batch begins; None behind the last."""

    rows: Mapping[str, int]
    next: Mark | None


Work = Callable[[AsyncConnection, Span], Awaitable[Batch]]
Tell = Callable[[Mapping[str, int]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """One kind of thing: what `work` deletes, and `count` would, of what is older than `before`."""

    name: str
    before: datetime
    most: int
    work: Work
    count: Work


async def database_time(engine: AsyncEngine) -> datetime:
    """Return the database's time: a worker whose clock is wrong must purge nothing for it."""
    async with engine.connect() as tx:
        now: datetime = (await tx.execute(text("SELECT now()"))).scalar_one()
    return now


async def work_off(
    engine: AsyncEngine, purges: Sequence[Purge], tell: Tell, *, rest: float = REST
) -> dict[str, Exception]:
    """Purge one kind after the other, telling of each batch; return what kept which from its end."""
    failures: dict[str, Exception] = {}
    for purge in purges:
        try:
            await _work_off(engine, purge, purge.work, tell, rest=rest)
        except Exception as error:  # one kind's trouble is none of the others'; the caller tells of it
            failures[purge.name] = error
    return failures


async def count_all(engine: AsyncEngine, purges: Sequence[Purge], tell: Tell) -> None:
    """Walk as the purge would, and delete nothing. Raises what the database raises."""
    for purge in purges:
        await _work_off(engine, purge, purge.count, tell, rest=0)


async def _work_off(engine: AsyncEngine, purge: Purge, work: Work, tell: Tell, *, rest: float) -> None:
    span = Span(after=BEGINNING, before=purge.before, most=purge.most)
    failures = 0
    while True:
        began_s = time.monotonic()
        try:
            batch = await _one(engine, work, span)
        except Exception as error:  # sorted here: what a smaller batch may get past, and what it may not
            failures += 1
            if failures >= TRIES or sqlstate(error) not in _PASSING:
                raise
            span = replace(span, most=max(1, span.most // 4))
            await asyncio.sleep(TRY_AGAIN_S)
            continue
        failures, took_s = 0, time.monotonic() - began_s
        tell(batch.rows)
        if batch.next is None:
            return
        span = replace(span, after=batch.next, most=_next_size(span.most, purge.most, took_s))
        await asyncio.sleep(rest * took_s)


async def _one(engine: AsyncEngine, work: Work, span: Span) -> Batch:
    async with engine.begin() as tx:
        await tx.execute(_QUIETLY)
        return await work(tx, span)


def _next_size(size: int, most: int, took_s: float) -> int:
    if took_s > LONG_S:
        return max(1, size // 2)
    return min(most, size * 2) if took_s < LONG_S / 10 else size

"""The gateway's view of the database: single SELECTs. A hung database is an answer in time."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gateway.resources import Row
from shared.database import create_engine, is_outage, not_provisioned
from shared.errors import Unavailable

# A caller hears of a dead database within this.
READ_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 2.0
# Reads by primary key or index take a millisecond; this serves thousands a second.
POOL_SIZE = 10

Result = TypeVar("Result")


class Database:
    """The gateway's view of the database. It connects on first use."""

    def __init__(self, url: str) -> None:
        # Single SELECTs are snapshots by themselves: no BEGIN and ROLLBACK around each.
        engine = create_engine(url, name="gateway", pool_size=POOL_SIZE)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows within `READ_TIMEOUT_S`; raise Unavailable or NotProvisioned."""
        try:
            return await self._within(READ_TIMEOUT_S, self._read_over_live_connection(statement, parameters))
        except Exception as error:
            if missing := not_provisioned(error):
                raise missing from error
            if is_outage(error):
                raise Unavailable(str(error)) from error
            raise

    async def close(self) -> None:
        """Close the connections, in time, even when the database is stuck."""
        with suppress(TimeoutError):
            await self._within(CLOSE_TIMEOUT_S, self._engine.dispose())

    async def _within(self, limit_s: float, work: Coroutine[Any, Any, Result]) -> Result:
        """Like `asyncio.timeout`, but it does not wait for the end of what it cancels.

        A driver that is cancelled on a stuck connection first tries for two seconds to close it.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            done, _ = await asyncio.wait([task], timeout=limit_s)
        finally:
            task.cancel()
        if not done:
            raise TimeoutError(f"no answer within {limit_s:g} s")
        return task.result()

    async def _read_over_live_connection(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Read again when a pooled connection turns out dead: its failure has emptied the pool of its like."""
        try:
            return await self._execute(statement, parameters)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return await self._execute(statement, parameters)

    async def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(statement), parameters)).mappings()]

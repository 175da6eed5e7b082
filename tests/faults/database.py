"""The database as its administrator sees it, through no proxy: short connections that outlive any outage."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

Found = TypeVar("Found")

PATIENCE_S = 120.0
QUERY_TIMEOUT_S = 30.0


class Database:
    """The superuser in the house's database."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self) -> asyncpg.Connection:
        """One connection; waits while the server is away."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await asyncpg.connect(self.url, timeout=5, ssl=False)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        return await self._asked(lambda connection: connection.fetch(query, *arguments, timeout=QUERY_TIMEOUT_S))

    async def fetch_all(self, *queries: tuple[str, Sequence[Any]]) -> list[list[asyncpg.Record]]:
        """All rows of each query, as they are at one moment."""

        async def ask(connection: asyncpg.Connection) -> list[list[asyncpg.Record]]:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return [await connection.fetch(query, *values, timeout=QUERY_TIMEOUT_S) for query, values in queries]

        return await self._asked(ask)

    async def _asked(self, ask: Callable[[asyncpg.Connection], Awaitable[Found]]) -> Found:
        """What a new connection gives; one that broke is made anew once."""
        for is_last in (False, True):
            connection = await self.connect()
            try:
                return await ask(connection)
            except (
                OSError,
                asyncpg.PostgresConnectionError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,  # the server went while the driver was reading
                asyncpg.OperatorInterventionError,
            ):
                if is_last:
                    raise
            finally:
                connection.terminate()
        raise AssertionError

    async def value(self, query: str, *arguments: Any) -> Any:
        rows = await self.fetch(query, *arguments)
        return rows[0][0] if rows else None

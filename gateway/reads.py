"""What the gateway reads: SELECTs on the rows that the session worker writes. A hung database is an answer in time."""

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database import create_engine, is_outage, not_provisioned
from shared.errors import Unavailable
from shared.resources import REQUEST_COLUMNS, SESSION_COLUMNS, Status

# A caller hears of a dead database within this.
READ_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 2.0
# Reads by primary key or index take a millisecond; this serves thousands a second.
POOL_SIZE = 10

Row = dict[str, Any]
Result = TypeVar("Result")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR_BYTES = 24
CURSOR_PATTERN = "^[A-Za-z0-9_-]{32}$"


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


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended, in the order `createdAt` descending, id descending."""

    created_at: datetime
    id: UUID

    def encode(self) -> str:
        """Return the opaque, URL-safe text: microseconds since 1970 and the id."""
        micros = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(micros.to_bytes(8, "big", signed=True) + self.id.bytes).decode()

    @classmethod
    def decode(cls, encoded: str) -> "Cursor":
        """Return the cursor of a text that `encode` gave. Raises ValueError."""
        try:
            packed = base64.b64decode(encoded.encode("ascii"), altchars=b"-_", validate=True)
            micros = int.from_bytes(packed[:8], "big", signed=True)
            created_at = _EPOCH + timedelta(microseconds=micros)
        except (binascii.Error, UnicodeEncodeError, OverflowError) as error:
            raise ValueError("is not a cursor of this list") from error
        if len(packed) != _CURSOR_BYTES:
            raise ValueError("is not a cursor of this list")
        return cls(created_at, UUID(bytes=packed[8:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions, how many, and after which; `client` None is everybody's."""

    client: str | None
    charger_id: str | None
    driver_id: str | None
    status: Status | None
    limit: int
    after: Cursor | None


async def read_request(database: Database, request_id: UUID, client: str | None) -> Row | None:
    """Return the row of a request, if there is one for this client."""
    return await _read_one(database, "charging_session_requests", REQUEST_COLUMNS, request_id, client)


async def read_session(database: Database, session_id: UUID, client: str | None) -> Row | None:
    """Return the row of a session, if there is one for this client."""
    return await _read_one(database, "charging_sessions", SESSION_COLUMNS, session_id, client)


async def read_sessions(database: Database, wanted: SessionFilter) -> tuple[list[Row], Cursor | None]:
    """Return a page, newest first, and where the next one begins."""
    conditions = {
        "client = :client": wanted.client,
        '"chargerId" = :charger_id': wanted.charger_id,
        '"driverId" = :driver_id': wanted.driver_id,
        "status = :status": wanted.status,
        '("createdAt", id) < (:created_at, :id)': wanted.after,
    }
    kept = [condition for condition, value in conditions.items() if value is not None]
    statement = (
        f"SELECT {_quoted(SESSION_COLUMNS)} FROM charging_sessions"  # noqa: S608 - names and conditions are ours
        f"{' WHERE ' if kept else ''}{' AND '.join(kept)}"
        ' ORDER BY "createdAt" DESC, id DESC LIMIT :limit'
    )
    rows = await database.read(statement, _parameters(wanted))
    if len(rows) <= wanted.limit:
        return rows, None
    page = rows[: wanted.limit]
    return page, Cursor(page[-1]["createdAt"], page[-1]["id"])


def _parameters(wanted: SessionFilter) -> dict[str, Any]:
    """One row more than asked for tells whether there is a next page."""
    values = {
        "client": wanted.client,
        "charger_id": wanted.charger_id,
        "driver_id": wanted.driver_id,
        "status": wanted.status,
        "limit": wanted.limit + 1,
        "created_at": wanted.after.created_at if wanted.after else None,
        "id": wanted.after.id if wanted.after else None,
    }
    return {name: value for name, value in values.items() if value is not None}


async def _read_one(
    database: Database, table: str, columns: tuple[str, ...], row_id: UUID, client: str | None
) -> Row | None:
    own = "" if client is None else " AND client = :client"
    statement = f"SELECT {_quoted(columns)} FROM {table} WHERE id = :id{own}"  # noqa: S608 - names are ours
    parameters = {"id": row_id} if client is None else {"id": row_id, "client": client}
    rows = await database.read(statement, parameters)
    return rows[0] if rows else None


def _quoted(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{column}"' for column in columns)

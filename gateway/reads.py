"""The SELECTs on what the session worker writes: one row by its key, or a page of sessions."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.database import Database
from gateway.resources import SESSION, Resource, Row
from shared.resources import Status

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR_BYTES = 24
CURSOR_PATTERN = "^[A-Za-z0-9_-]{32}$"


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
    """Which sessions, how many, and after which; `client` None is everybody's. The times are of their creation."""

    client: str | None = None
    charger_id: str | None = None
    driver_id: str | None = None
    status: Status | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    limit: int
    after: Cursor | None = None


async def read_one(database: Database, resource: Resource, key: UUID | str, client: str | None) -> Row | None:
    """Return the row of this key, if there is one for this client; None is everybody's."""
    own = "" if client is None else " AND client = :client"
    statement = (
        f"SELECT {_quoted(resource.columns)} FROM {resource.table}"  # noqa: S608 - names are ours
        f' WHERE "{resource.key}" = :key{own} AND {resource.condition}'
    )
    parameters = {"key": key} if client is None else {"key": key, "client": client}
    rows = await database.read(statement, parameters)
    return rows[0] if rows else None


async def read_sessions(database: Database, wanted: SessionFilter) -> tuple[list[Row], Cursor | None]:
    """Return a page, newest first, and where the next one begins."""
    rows = await database.read(*page_statement(wanted))
    if len(rows) <= wanted.limit:
        return rows, None
    page = rows[: wanted.limit]
    return page, Cursor(page[-1]["createdAt"], page[-1]["id"])


def page_statement(wanted: SessionFilter) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of a page and its parameters. One row more than asked for tells whether there is a next page.

    Each filter alone has an index in the order of the list; of several, the others sift what the best one finds.
    """
    after = wanted.after
    conditions: list[tuple[str, dict[str, Any]]] = [
        ("client = :client", {"client": wanted.client}),
        ('"chargerId" = :charger_id', {"charger_id": wanted.charger_id}),
        ('"driverId" = :driver_id', {"driver_id": wanted.driver_id}),
        # A literal, so that a plan that is kept knows how rare the status is: few sessions are in progress.
        (f"status = '{wanted.status}'", {} if wanted.status else {"status": None}),
        ('"createdAt" >= :created_from', {"created_from": wanted.created_from}),
        ('"createdAt" < :created_to', {"created_to": wanted.created_to}),
    ]
    if after is not None:
        values = {"after_time": after.created_at, "after_id": after.id}
        conditions.append(('("createdAt", id) < (:after_time, :after_id)', values))
    kept = [(condition, values) for condition, values in conditions if None not in values.values()]
    statement = (
        f"SELECT {_quoted(SESSION.columns)} FROM {SESSION.table}"  # noqa: S608 - names and conditions are ours
        f"{' WHERE ' if kept else ''}{' AND '.join(condition for condition, _ in kept)}"
        ' ORDER BY "createdAt" DESC, id DESC LIMIT :limit'
    )
    parameters = {name: value for _, values in kept for name, value in values.items()}
    return statement, parameters | {"limit": wanted.limit + 1}


def _quoted(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{column}"' for column in columns)

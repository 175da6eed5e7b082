"""`python -m ops requests list`: the decision log, newest first, for people or as JSON lines."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import orjson
from rich.table import Table
from rich.text import Text

from ops import database_access
from ops.listing import Column, console, listing
from shared.resources import REQUEST_COLUMNS, request_json

MOST: Final = 10_000
# Holds every column on one line.
PIPED_WIDTH: Final = 180


class Verdict(StrEnum):
    """What a request can be listed by: its decision, or that it waits for one."""

    ALLOWED = "allowed"
    NOT_ALLOWED = "not_allowed"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    PENDING = "pending"


_STYLES: Final = {
    Verdict.ALLOWED: "green",
    Verdict.NOT_ALLOWED: "yellow",
    Verdict.INVALID: "magenta",
    Verdict.UNKNOWN: "red",
    Verdict.PENDING: "dim",
}
_LISTED: Final = (
    Column(name="created (UTC)", rank=5, least=19),
    Column(name="request", rank=1, least=36),
    Column(name="station", rank=6, least=12, folds=True),
    Column(name="connector", rank=8, least=9, folds=True),
    Column(name="driver", rank=3, least=12, folds=True),
    Column(name="decision", rank=2, least=11),
    Column(name="reason", rank=4, least=14, folds=True),
    Column(name="after", rank=7, least=11, justify="right"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which requests, and how many at most."""

    decision: Verdict | None = None
    driver_id: str | None = None
    limit: int


def main(wanted: Wanted, *, as_json: bool) -> int:
    """Print the list; return the exit status."""
    return database_access.run(_list(database_access.database_url(), wanted, as_json))


async def _list(url: str, wanted: Wanted, as_json: bool) -> int:
    query, values = statement(wanted)
    async with database_access.connected(url) as connection:
        rows = await connection.fetch(query, *values)
    if as_json:
        sys.stdout.writelines(orjson.dumps(request_json(row)).decode() + "\n" for row in rows)
    else:
        screen = console(PIPED_WIDTH)
        screen.print(table(rows, datetime.now(UTC), screen.width))
    return 0


def statement(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the SELECT and its values."""
    conditions, values = ["true"], list[Any]()
    if wanted.decision is Verdict.PENDING:
        conditions.append("decision IS NULL")
    elif wanted.decision is not None:
        values.append(wanted.decision)
        conditions.append(f"decision = ${len(values)}")
    if wanted.driver_id is not None:
        values.append(wanted.driver_id)
        conditions.append(f'"driverId" = ${len(values)}')
    columns = ", ".join(f'"{column}"' for column in REQUEST_COLUMNS)
    query = (
        f"SELECT {columns} FROM charging_session_requests"  # noqa: S608 - names are ours, values are parameters
        f' WHERE {" AND ".join(conditions)} ORDER BY "createdAt" DESC, id DESC LIMIT {wanted.limit}'
    )
    return query, values


def table(rows: list[Mapping[str, Any]], now: datetime, width: int) -> Table:
    """Return the log as a table; `after` is how long a request waited, or waits."""
    return listing(_LISTED, (_cells(row, now) for row in rows), what="request", width=width)


def _cells(row: Mapping[str, Any], now: datetime) -> dict[str, Text]:
    verdict = Verdict(row["decision"] or Verdict.PENDING)
    waited = (row["decidedAt"] or now) - row["createdAt"]
    return {
        "created (UTC)": Text(f"{row['createdAt'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"),
        "request": Text(str(row["id"])),
        "station": Text(row["stationId"]),
        "connector": Text(row["connectorId"] or ""),
        "driver": Text(row["driverId"]),
        "decision": Text(verdict, _STYLES[verdict]),
        "reason": Text(row["reason"] or ""),
        "after": Text(f"{max(0.0, waited.total_seconds()):.2f} s"),
    }

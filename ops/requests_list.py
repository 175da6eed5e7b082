"""`python -m ops requests list`: the decision log, newest first, for people or as JSON lines."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops import database_access
from shared.resources import REQUEST_COLUMNS, request_json

MOST: Final = 10_000
# Piped output has no width of its own; this one holds every column on one line.
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
        _console().print(table(rows, datetime.now(UTC)))
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


def table(rows: list[Mapping[str, Any]], now: datetime) -> Table:
    """Return the log as a table; `after` is how long a request waited, or waits."""
    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("created (UTC)", "request", "station", "connector", "driver", "decision", "reason"):
        shown.add_column(name, overflow="fold")
    shown.add_column("after", justify="right")
    for row in rows:
        verdict = Verdict(row["decision"] or Verdict.PENDING)
        waited = (row["decidedAt"] or now) - row["createdAt"]
        texts = (f"{row['createdAt'].astimezone(UTC):%Y-%m-%d %H:%M:%S}", str(row["id"]), row["stationId"])
        shown.add_row(
            *(Text(text) for text in (*texts, row["connectorId"] or "", row["driverId"])),
            Text(verdict, _STYLES[verdict]),
            Text(row["reason"] or ""),
            f"{max(0.0, waited.total_seconds()):.2f} s",
        )
    shown.caption = f"{len(rows):,} request{'' if len(rows) == 1 else 's'}"
    return shown


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)

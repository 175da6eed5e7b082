"""`python -m ops sessions export`: sessions as CSV, in the order of their creation, in constant memory.

The columns are the session JSON's, flat, then `needsReview` and `reviewReason`. What is not known is an empty cell. The
cost is the final one: a session in progress has none. All rows are of one moment, whatever is written meanwhile.
"""

import csv
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import asyncpg
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ops import database_access
from shared.resources import SESSION_COLUMNS, Status, session_json

# Rows that the cursor brings at once: some 2 MB of wide ones.
CHUNK: Final = 2_000
REVIEW_COLUMNS: Final = ("needsReview", "reviewReason")
# All but the payment, which is a document of its own.
READ_COLUMNS: Final = (*(column for column in SESSION_COLUMNS if column != "payment"), *REVIEW_COLUMNS)
COLUMNS: Final = ("sessionId", *READ_COLUMNS[1:])
# A spreadsheet takes a cell that begins so for a formula and runs it (OWASP, "CSV Injection").
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
EXIT_NO_FILE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which sessions: created at or after `begin` and before `end`."""

    begin: datetime | None = None
    end: datetime | None = None
    status: Status | None = None
    charger_id: str | None = None


def main(wanted: Wanted, output: Path | None) -> int:
    """Export to the file, or to standard output; return the exit status. A file gets its name when it is complete."""
    url = database_access.database_url()
    try:
        return _to_standard_output(url, wanted) if output is None else _to_file(url, wanted, output)
    except OSError as error:
        sys.stderr.write(f"{output or 'standard output'}: {error.strerror or error}\n")
        return EXIT_NO_FILE


def statement(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the SELECT and its values. It walks an index in its order."""
    conditions = [
        ('"createdAt" >= ', wanted.begin),
        ('"createdAt" < ', wanted.end),
        ("status = ", wanted.status),
        ('"chargerId" = ', wanted.charger_id),
    ]
    values = [value for _, value in conditions if value is not None]
    kept = [condition for condition, value in conditions if value is not None]
    where = " AND ".join(f"{condition}${number}" for number, condition in enumerate(kept, start=1))
    columns = ", ".join(f'"{column}"' for column in READ_COLUMNS)
    # Names are ours, values are parameters.
    query = f'SELECT {columns} FROM charging_sessions WHERE {where or "true"} ORDER BY "createdAt", id'  # noqa: S608
    return query, values


def flat(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row. What begins like a formula is text, and gets an apostrophe before it."""
    texts = {name for name, value in row.items() if isinstance(value, str)}
    shown = session_json({**row, "payment": None}) | {
        "needsReview": "true" if row["needsReview"] else "false",
        "reviewReason": row["reviewReason"],
    }
    return [_cell(shown[name], is_text=name in texts) for name in COLUMNS]


def _cell(value: str | None, *, is_text: bool) -> str:
    if value is None:
        return ""
    return f"'{value}" if is_text and value.startswith(_FORMULA_STARTS) else value


def _to_standard_output(url: str, wanted: Wanted) -> int:
    # The csv writer ends its lines itself, as RFC 4180 has them.
    with open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False) as file:
        try:
            status = database_access.run(_export(url, wanted, file, shows_progress=not file.isatty()))
            file.flush()
        except BrokenPipeError:
            # Whoever read has seen enough, as `head` does; what is left in the buffer must find a place all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    return status


def _to_file(url: str, wanted: Wanted, output: Path) -> int:
    with _part(output) as part:
        with part.open("w", encoding="utf-8", newline="") as file:
            status = database_access.run(_export(url, wanted, file, shows_progress=True))
        if status == 0:
            part.replace(output)
    return status


@contextmanager
def _part(output: Path) -> Iterator[Path]:
    """A file beside the wanted one, which is gone at the end unless it was renamed."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


async def _export(url: str, wanted: Wanted, file: IO[str], *, shows_progress: bool) -> int:
    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} sessions"), TimeElapsedColumn())
    writer = csv.writer(file)
    async with database_access.connected(url) as connection:
        with Progress(
            *columns, console=console, disable=not (shows_progress and console.is_terminal), transient=True
        ) as progress:
            bar = progress.add_task("sessions", total=None)
            writer.writerow(COLUMNS)
            async for rows in _chunks(connection, wanted):
                writer.writerows(flat(row) for row in rows)
                progress.advance(bar, len(rows))
    return 0


async def _chunks(connection: asyncpg.Connection, wanted: Wanted) -> AsyncIterator[list[Mapping[str, Any]]]:
    query, values = statement(wanted)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await connection.cursor(query, *values)
        while rows := await cursor.fetch(CHUNK):
            yield rows

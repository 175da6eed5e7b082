"""`python -m ops drivers import`: all drivers of a CSV file, or none and all faults of the file.

The file is read twice: once to find its faults, once to copy it. Other drivers stay as they are.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import IO, Any

import asyncpg
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops import database_access
from ops.drivers_file import ENCODING, ENCODING_ERRORS, Fault, read_drivers
from shared.commands import SetDriver

EXIT_FAULTS = 2
# Few enough to show progress and hold little, enough that the round trips do not count.
CHUNK = 5_000

_COLUMNS = ("driverId", "status", "validFrom", "validUntil", "stations", "reason")
_TEMPORARY = """
    CREATE TEMPORARY TABLE imported_drivers (
        "driverId" text, status text, "validFrom" timestamptz, "validUntil" timestamptz, stations text, reason text
    ) ON COMMIT DROP"""
# A session worker that writes drivers meanwhile waits for the end of the INSERT, and cannot deadlock with it.
_LOCK = "LOCK TABLE drivers IN SHARE ROW EXCLUSIVE MODE"
_UPSERT = """
    INSERT INTO drivers ("driverId", status, "validFrom", "validUntil", stations, reason, "updatedAt")
    SELECT "driverId", status, "validFrom", "validUntil", CAST(stations AS jsonb), reason, now()
    FROM imported_drivers
    ON CONFLICT ("driverId") DO UPDATE SET
        status = excluded.status, "validFrom" = excluded."validFrom", "validUntil" = excluded."validUntil",
        stations = excluded.stations, reason = excluded.reason, "updatedAt" = excluded."updatedAt"
    RETURNING (xmax = 0) AS is_new"""
_COUNTED = f"WITH written AS ({_UPSERT}) SELECT count(*) FILTER (WHERE is_new), count(*) FROM written"  # noqa: S608

Advance = Callable[[int], None]


class FileChanged(Exception):
    """The file was without fault when it was checked, and has one now."""


def main(path: Path) -> int:
    """Import the file; return the exit status: 0, 2 where the file has faults, 1 where the database refuses it."""
    url = database_access.database_url()
    console = Console(stderr=True, highlight=False)
    if not path.is_file():
        console.print(f"{path}: is no file", markup=False, style="red", soft_wrap=True)
        return EXIT_FAULTS
    count = _check(console, path)
    if count is None:
        return EXIT_FAULTS
    return database_access.run(_import(console, url, path, count))


def _check(console: Console, path: Path) -> int | None:
    """Return how many drivers the file has; None where it has faults, which are then on stderr, one a line."""
    drivers = faults = 0
    with _opened(path) as lines:
        for found in read_drivers(lines):
            if isinstance(found, Fault):
                faults += 1
                console.print(f"{path.name}: {found}", markup=False, soft_wrap=True)
            else:
                drivers += 1
    if faults:
        console.print(f"{faults:,} fault{'s' * (faults > 1)}; nothing was imported.", style="red")
        return None
    return drivers


async def _import(console: Console, url: str, path: Path, count: int) -> int:
    try:
        async with database_access.connected(url) as connection:
            with _progress(console) as progress:
                bar = progress.add_task("drivers", total=count)
                async with connection.transaction():
                    new, written = await _write(connection, path, lambda rows: progress.advance(bar, rows))
    except FileChanged as changed:
        console.print(f"{path.name}: {changed}; the file was changed meanwhile, nothing was imported.", style="red")
        return EXIT_FAULTS
    plural = "" if written == 1 else "s"
    console.print(f"{written:,} driver{plural} imported: {new:,} new, {written - new:,} replaced.")
    return 0


async def _write(connection: asyncpg.Connection, path: Path, advance: Advance) -> tuple[int, int]:
    """Copy the file and take it over; return how many drivers are new, and how many there are in all."""
    await connection.execute(_TEMPORARY)
    with _opened(path) as lines:
        drivers = read_drivers(lines)
        while chunk := [_record(driver) for driver in islice(drivers, CHUNK)]:
            await connection.copy_records_to_table("imported_drivers", records=chunk, columns=_COLUMNS)
            advance(len(chunk))
    await connection.execute(_LOCK)
    new, written = await connection.fetchrow(_COUNTED)
    return new, written


def _record(driver: SetDriver | Fault) -> tuple[Any, ...]:
    if isinstance(driver, Fault):
        raise FileChanged(driver)
    stations = None if driver.stations is None else orjson.dumps(driver.stations).decode()
    return driver.driver_id, str(driver.status), driver.valid_from, driver.valid_until, stations, driver.reason


def _opened(path: Path) -> IO[str]:
    return path.open(encoding=ENCODING, errors=ENCODING_ERRORS, newline="")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

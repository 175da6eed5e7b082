"""The commands about what the database holds: drivers, sessions, requests. They need `DATABASE_URL` alone."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from ops import drivers_import, requests_list, sessions_export
from shared.commands import UtcTime
from shared.resources import Status

drivers = typer.Typer(help="Who may charge (AUTHORIZATION=acl).", no_args_is_help=True)
sessions = typer.Typer(help="Charging sessions.", no_args_is_help=True)
requests = typer.Typer(help="Charging-session requests and their decisions.", no_args_is_help=True)

_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)


def parse_time(text: str) -> datetime:
    """Return the time; a date alone is its midnight in UTC."""
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    except ValueError:
        pass
    try:
        return _TIME.validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter("must be a date or a time, as 2026-05-04 or 2026-05-04T12:00:00Z") from error


@drivers.command("import")
def import_drivers(file: Annotated[Path, typer.Argument(metavar="FILE.csv")]) -> None:
    """Set all drivers of a CSV file, or none: every fault of the file is listed, with its line and column.

    The first line names the columns driverId, status, validFrom, validUntil, stations, reason, in any order. Stations
    are separated by semicolons. An empty cell is null; no stations are any. Other drivers stay as they are.
    """
    raise typer.Exit(drivers_import.main(file))


@sessions.command("export")
def export_sessions(
    begin: Annotated[
        datetime | None,
        typer.Option("--from", parser=parse_time, metavar="TIME", help="Created at or after this date or time (UTC)."),
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", parser=parse_time, metavar="TIME", help="Created before it.")
    ] = None,
    status: Annotated[Status | None, typer.Option(case_sensitive=False)] = None,
    charger: Annotated[str | None, typer.Option(help="A chargerId.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Else standard output.")] = None,
) -> None:
    """Write sessions as CSV (RFC 4180, UTF-8), in the order of their creation.

    A text that begins with =, +, -, @, a tab or a carriage return gets an apostrophe before it: a spreadsheet would run
    it as a formula. Costs and energies are plain decimals; an empty cell is not known.
    """
    wanted = sessions_export.Wanted(begin=begin, end=end, status=status, charger_id=charger)
    raise typer.Exit(sessions_export.main(wanted, output))


@requests.command("list")
def list_requests(
    decision: Annotated[requests_list.Verdict | None, typer.Option()] = None,
    driver: Annotated[str | None, typer.Option(help="A driverId.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=requests_list.MOST)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what was decided, when and why, newest first.

    A narrow terminal leaves columns out; --json has them all.
    """
    wanted = requests_list.Wanted(decision=decision, driver_id=driver, limit=limit)
    raise typer.Exit(requests_list.main(wanted, as_json=as_json))

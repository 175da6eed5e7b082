"""`python -m ops maintain`: purges what is too old, in every table, now; `--dry-run` only counts.

It does what the workers do by themselves, with the same settings, and may run beside them and beside itself. Where it
is broken off, what it has purged is gone, and the next run goes on.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import typer
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from shared import settings
from shared.clock import now_utc
from shared.database import SQLSTATE_INSUFFICIENT_PRIVILEGE, create_engine, origin_of, sqlstate
from shared.failures import reason_of
from shared.retention.age import doubt
from shared.retention.aged import CALLBACK_TABLES, callback_purges
from shared.retention.batches import Purge, count_all, database_time, work_off
from shared.retention.sessions import SESSION_TABLES, session_purges
from shared.retention.settings import CallbackRetention, SessionRetention
from shared.settings import DatabaseUrl

EXIT_INCOMPLETE: Final = 1
_KEPT: Final = {
    "messages": "inbox_retention_days",
    "callbacks": "callback_log_retention_days",
    "refused requests and sessions": "refused_retention_days",
    "sessions": "session_retention_days",
    "sessions with a price": "payment_retention_days",
}


class MaintainSettings(SessionRetention, CallbackRetention):
    """The database, by a login that may delete in all tables, and for how long things are kept."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: DatabaseUrl


def main(*, dry_run: bool, yes: bool, force: bool) -> int:
    """Purge, or count; print what went from where; return the exit status: 0, or 1 where something was kept from it.

    Whoever sits at a terminal and has not said `yes` is asked: that shell may lack what the workers were told to keep.
    """
    config = settings.load(MaintainSettings)
    notes, rows = Console(stderr=True, highlight=False), Counter[str]()
    notes.print(f"Kept: {', '.join(f'{what} {_days(config, name)}' for what, name in _KEPT.items())}.", soft_wrap=True)
    is_asked = sys.stdin.isatty() and not (dry_run or yes)
    if is_asked and not typer.confirm("Purge what is older, for ever?", err=True):
        return EXIT_INCOMPLETE
    failures: Mapping[str, str] | None = None
    try:
        failures = asyncio.run(_maintain(config, notes, rows, dry_run=dry_run, force=force))
    finally:
        is_whole = failures == {}
        # What went is told also of a purge that failed or was broken off; a count that did not end is none.
        if rows.total() and (is_whole or not dry_run):
            Console(highlight=False).print(_table(rows, dry_run=dry_run, is_whole=is_whole))
    if is_whole and not rows.total():
        Console().print("Nothing was old enough.")
    for name, reason in failures.items():
        notes.print(f"{name}: {reason}", markup=False, style="red", soft_wrap=True)
    return EXIT_INCOMPLETE if failures else 0


def _days(config: MaintainSettings, name: str) -> str:
    days = getattr(config, name)
    return f"{days:,} days" if days else "for ever"


async def _maintain(
    config: MaintainSettings, notes: Console, rows: Counter[str], *, dry_run: bool, force: bool
) -> Mapping[str, str]:
    """Return what kept which from its end, in words."""
    engine = create_engine(config.database_url.get_secret_value(), name="ops maintain", pool_size=1)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"))
    try:
        with Progress(*columns, TimeElapsedColumn(), console=notes, disable=not notes.is_terminal) as progress:
            bar = progress.add_task("counting" if dry_run else "purging", total=None)

            def tell(gone: Mapping[str, int]) -> None:
                rows.update(gone)
                progress.update(bar, completed=rows.total())

            now = await database_time(engine)
            if not force and (reason := doubt(now, now_utc())):
                return {"Clocks": f"{reason}; put right the wrong one, or go by the database's with --force"}
            purges = _purges(config, now)
            if dry_run:
                await count_all(engine, purges, tell)
                return {}
            failures = await work_off(engine, purges, tell)
            return {name: _reason(error, verb="DELETE") for name, error in failures.items()}
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        return {"Database": _reason(error, verb="SELECT")}
    finally:
        await engine.dispose()


def _reason(error: Exception, *, verb: str) -> str:
    """A worker's login lacks the other one's rights by design: no provisioning gives it those."""
    if sqlstate(error) != SQLSTATE_INSUFFICIENT_PRIVILEGE:
        return reason_of(error)
    return f"{origin_of(error)}: it needs a login that may {verb} in every table, the owner's for example"


def _purges(config: MaintainSettings, now: datetime) -> list[Purge]:
    return [*session_purges(config, now), *callback_purges(config, now)]


def _table(rows: Counter[str], *, dry_run: bool, is_whole: bool) -> Table:
    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("table")
    shown.add_column("would go" if dry_run else "purged", justify="right")
    for table in (*SESSION_TABLES, *CALLBACK_TABLES):
        if is_whole or rows[table]:
            shown.add_row(table, f"{rows[table]:,}")
    return shown

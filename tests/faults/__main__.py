"""`python -m tests.faults`: breaks everything that can break under load, and counts what became of every call."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.local_stack import Kind, StackError, kind
from ops.local_stack.engine import engine_answers
from tests.faults.backlog import MILLION, parked
from tests.faults.mutants import run_mutants
from tests.faults.programme import LANES, Programme
from tests.faults.row import SETTLE_MOST_S, Fault
from tests.faults.rows import ROWS, chosen
from tests.faults.storm import storm

app = typer.Typer(name="python -m tests.faults", add_completion=False, pretty_exceptions_enable=False)

# A backlog of minutes takes minutes.
STORM_SETTLE_S = 300
EXIT_NO_SUCH_ROW = 2
# Sections of docs/faults.md.
SHORT = "Every fault once, on"
LONG = "The long programme, on"
STORM = "The storm, on"

Seed = Annotated[int | None, typer.Option(help="Repeats a run's choices; printed by every run.")]
Lanes = Annotated[int, typer.Option(min=1, max=8, help="Rows at a time, each with servers of its own.")]
Only = Annotated[list[str] | None, typer.Option(help="Rows whose name holds this; may be given again.")]
Write = Annotated[bool, typer.Option(help="docs/faults.md, after a whole run.")]
Parked = Annotated[int, typer.Option(min=1000, help="Messages that wait; fewer for a small machine.")]
KeepLogs = Annotated[bool, typer.Option(help="Those of a clean run, too.")]


@app.command("short")
def run_short(
    only: Only = None,
    seed: Seed = None,
    lanes: Lanes = LANES,
    write: Write = True,
    keep_logs: KeepLogs = False,
    record: Annotated[Path | None, typer.Option(help="Every row's counts as JSON.")] = None,
    settle: Annotated[float, typer.Option(help="Seconds until what has not ended counts as lost.")] = SETTLE_MOST_S,
) -> None:
    """Every row once."""
    rows = _chosen(only, is_long=False)
    programme = _programme("make faults", seed, keep_logs)
    programme.rows(rows, lanes=lanes, settle_s=settle)
    raise typer.Exit(programme.conclude(section=SHORT if write and not only else None, record=record))


@app.command("long")
def run_long(
    minutes: Annotated[float, typer.Option()] = 60,
    only: Only = None,
    seed: Seed = None,
    lanes: Lanes = LANES,
    write: Write = True,
    keep_logs: KeepLogs = False,
    count: Parked = MILLION,
) -> None:
    """The storm, a million messages that wait, then every row, again and again; where Docker answers, there as well."""
    rows = _chosen(only, is_long=True)
    kinds = [kind()] if "LOCAL_STACK" in os.environ or not engine_answers() else list(Kind)
    failed = 0
    for each in kinds:
        os.environ["LOCAL_STACK"] = each
        ends_at = time.monotonic() + 60 * minutes / len(kinds)
        programme = _programme("make faults-long", seed, keep_logs)
        if not only:
            programme.rows([storm(), parked(count)], lanes=1, settle_s=STORM_SETTLE_S)
        programme.rows(rows, lanes=lanes, ends_at=ends_at)
        failed += programme.conclude(section=LONG if write and not only else None)
    raise typer.Exit(int(failed > 0))


@app.command("storm")
def run_storm(
    minutes: Annotated[float, typer.Option(min=0.1)] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Commands a second.")] = 300,
    seed: Seed = None,
    write: Write = True,
    keep_logs: KeepLogs = False,
) -> None:
    """A random fault every five seconds, under a heavy load; then the ledger must balance."""
    programme = _programme("make faults-storm", seed, keep_logs)
    programme.rows([storm(minutes=minutes, rate=rate)], lanes=1, settle_s=STORM_SETTLE_S)
    raise typer.Exit(programme.conclude(section=STORM if write else None))


@app.command("parked")
def run_parked(
    count: Parked = MILLION,
    seed: Seed = None,
    keep_logs: KeepLogs = False,
) -> None:
    """So many commands that wait: memory stays bounded, nothing is lost, and callers are answered meanwhile."""
    programme = _programme("make faults-long", seed, keep_logs)
    programme.rows([parked(count)], lanes=1, settle_s=STORM_SETTLE_S)
    raise typer.Exit(programme.conclude(section=None))


@app.command("mutants")
def run_all_mutants(only: Only = None, write: Write = True) -> None:
    """Remove one safeguard after another: a row must notice each."""
    raise typer.Exit(run_mutants(only or [], writes=write and not only))


@app.command("rows")
def list_rows() -> None:
    """Name the rows."""
    for row in ROWS:
        typer.echo(f"{row.name}{' (long)' if row.is_long else ''}")


def _chosen(only: list[str] | None, *, is_long: bool) -> list[Fault]:
    """A word that no row's name holds is a slip of whoever typed it."""
    rows = chosen(only or [], is_long=is_long)
    if not rows:
        words = " or ".join(repr(word) for word in only or [])
        typer.secho(f"No row's name holds {words}; `python -m tests.faults rows` names them", err=True)
        raise typer.Exit(EXIT_NO_SUCH_ROW)
    return rows


def _programme(command: str, seed: int | None, keeps_logs: bool) -> Programme:
    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    return Programme(command, keeps_logs=keeps_logs, **given)


if __name__ == "__main__":
    try:
        app()
    except StackError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise SystemExit(error.exit_status) from None

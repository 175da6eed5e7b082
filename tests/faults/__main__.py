"""`python -m tests.faults`: breaks everything that can break under load, and counts what became of every call."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ops.local_stack import Kind, StackError, kind
from ops.local_stack.engine import engine_answers
from tests.faults.mutants import run_mutants
from tests.faults.programme import LANES, run_programme
from tests.faults.row import SETTLE_MOST_S
from tests.faults.rows import ROWS, chosen
from tests.faults.storm import storm

app = typer.Typer(name="python -m tests.faults", add_completion=False, pretty_exceptions_enable=False)

# A backlog of minutes takes minutes.
STORM_SETTLE_S = 300

Seed = Annotated[int | None, typer.Option(help="Repeats a run's choices; printed by every run.")]
Lanes = Annotated[int, typer.Option(min=1, max=8, help="Rows at a time, each with servers of its own.")]
Only = Annotated[list[str] | None, typer.Option(help="Rows whose name holds this; may be given again.")]
KeepLogs = Annotated[bool, typer.Option(help="Those of a clean run, too.")]


@app.command("short")
def run_short(
    only: Only = None,
    seed: Seed = None,
    lanes: Lanes = LANES,
    write: Annotated[bool, typer.Option(help="docs/faults.md, after a whole run.")] = True,
    record: Annotated[Path | None, typer.Option(help="Every row's counts as JSON.")] = None,
    keep_logs: KeepLogs = False,
    settle: Annotated[float, typer.Option(help="Seconds until what has not ended counts as lost.")] = SETTLE_MOST_S,
) -> None:
    """Every row once."""
    failed = run_programme(
        chosen(only or [], is_long=False), seed=seed, lanes=lanes, command="make faults", writes=write and not only,
        settle_s=settle, record=record, keeps_logs=keep_logs,
    )  # fmt: skip
    raise typer.Exit(failed)


@app.command("long")
def run_long(
    minutes: Annotated[float, typer.Option()] = 60,
    only: Only = None,
    seed: Seed = None,
    lanes: Lanes = LANES,
    keep_logs: KeepLogs = False,
) -> None:
    """Every row, the slow ones too, again and again; half of the time each where Docker offers another broker."""
    faults = chosen(only or [], is_long=True)
    kinds = [kind()] if "LOCAL_STACK" in os.environ or not engine_answers() else list(Kind)
    failed = 0
    for each in kinds:
        os.environ["LOCAL_STACK"] = each
        failed += run_programme(
            faults, seed=seed, lanes=lanes, command="make faults-long", minutes=minutes / len(kinds), writes=False,
            keeps_logs=keep_logs,
        )  # fmt: skip
    raise typer.Exit(int(failed > 0))


@app.command("storm")
def run_storm(
    minutes: Annotated[float, typer.Option(min=0.1)] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Commands a second.")] = 300,
    seed: Seed = None,
    keep_logs: KeepLogs = False,
) -> None:
    """A random fault every five seconds, under a heavy load; then the ledger must balance."""
    faults = [storm(minutes=minutes, rate=rate)]
    failed = run_programme(
        faults, seed=seed, lanes=1, command="", writes=False, settle_s=STORM_SETTLE_S, keeps_logs=keep_logs
    )
    raise typer.Exit(failed)


@app.command("mutants")
def run_all_mutants(only: Only = None) -> None:
    """Remove one safeguard after another: a row must notice each."""
    raise typer.Exit(run_mutants(only or []))


@app.command("rows")
def list_rows() -> None:
    """Name the rows."""
    for row in ROWS:
        typer.echo(f"{row.name}{' (long)' if row.is_long else ''}")


if __name__ == "__main__":
    try:
        app()
    except StackError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None

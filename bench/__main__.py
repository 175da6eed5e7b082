"""`python -m bench`: measurements on private servers. Without a command it measures throughput."""

from typing import Annotated

import typer
from rich.console import Console

from bench import authorization, claims, history, isolation, retention, throughput
from ops.local_stack import StackError

PIPED_WIDTH = 110

app = typer.Typer(
    name="python -m bench",
    help="Measure Voltline on this machine. Figures are printed, never asserted.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def run_throughput(context: typer.Context) -> None:
    """Without a command: how fast requests are acknowledged, applied and delivered."""
    if context.invoked_subcommand is None:
        raise typer.Exit(throughput.run(Console(highlight=False)))


@app.command("authorization")
def run_authorization(
    rounds: Annotated[int, typer.Option(min=1, help="Each measures every state of the service once.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="How long each state is measured in a round.")] = 12,
) -> None:
    """Start and stop latency while the authorization service hangs, against one that answers."""
    raise typer.Exit(authorization.run(_console(), rounds=rounds, window_s=seconds))


@app.command("history")
def run_history(
    rows: Annotated[int, typer.Argument(min=10_000, help="Sessions in the large database.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Each measures both databases once.")] = 3,
) -> None:
    """Reads and applied commands beside 10 thousand sessions and beside many; 10 million need some 10 GB of disk."""
    raise typer.Exit(history.run(_console(), rows=rows, rounds=rounds))


@app.command("isolation")
def run_isolation(
    rounds: Annotated[int, typer.Option(min=1, help="Each measures both kinds of run once.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="How long events are offered in a run.")] = 60,
    per_s: Annotated[int, typer.Option("--rate", min=10, help="Events a second, over ten hosts.")] = 200,
) -> None:
    """From event to receipt at five hosts, while five others are dead, against the same load with all ten alive."""
    raise typer.Exit(isolation.run(_console(), rounds=rounds, seconds=seconds, per_s=per_s))


@app.command("claims")
def run_claims() -> None:
    """What a claim of due callbacks costs beside one host's backlog of up to 100,000."""
    raise typer.Exit(claims.run(_console()))


@app.command("retention")
def run_retention(rows: Annotated[int, typer.Argument(min=1_000, help="Old messages.")] = 1_000_000) -> None:
    """How long a million old messages take to purge, and what that costs the commands that flow meanwhile."""
    raise typer.Exit(retention.run(_console(), rows=rows))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


if __name__ == "__main__":
    try:
        app()
    except StackError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None

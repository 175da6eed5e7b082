"""`python -m ops`: what people and pipelines run beside the three processes."""

from collections.abc import Callable
from typing import Annotated

import typer

from ops import demo, provision, records, up
from ops.local_stack import StackError

app = typer.Typer(
    name="python -m ops",
    help="Operate Voltline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(records.drivers, name="drivers")
app.add_typer(records.sessions, name="sessions")
app.add_typer(records.requests, name="requests")


@app.command("provision")
def run_provision(
    check: Annotated[bool, typer.Option("--check", help="Only compare; change nothing.")] = False,
) -> None:
    """Create or update the schema, the exchanges and queues, and the least-privilege logins."""
    raise typer.Exit(provision.main(check=check))


@app.command("up")
def run_up() -> None:
    """Run the whole product here until Ctrl-C, and print where everything is."""
    raise typer.Exit(_told(up.up))


@app.command("down")
def run_down() -> None:
    """Stop what an earlier `up` left running; in Docker, remove also what a killed `up` or demo left behind.

    A demo that runs is left alone. In Docker one `up` and one demo can run at a time, and the containers of one that
    was killed (kill -9) stay until the next run or until this command.
    """
    raise typer.Exit(_told(up.down))


@app.command("demo")
def run_demo(
    against: Annotated[str | None, typer.Option(help="A running gateway's URL; else everything is started.")] = None,
    receiver_host: Annotated[str, typer.Option(help="The name by which the callback worker reaches this host.")] = "",
) -> None:
    """Show a request, a session and a load of 1,000 requests, from acknowledgement to verified callback."""
    raise typer.Exit(_told(lambda: demo.run(against=against, receiver_host=receiver_host)))


def _told(work: Callable[[], int]) -> int:
    """The exit status; what cannot be had is told without a traceback."""
    try:
        return work()
    except StackError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        return 1


if __name__ == "__main__":
    app()

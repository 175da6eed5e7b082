"""`python -m ops`: what people and pipelines run beside the three processes."""

from collections.abc import Callable
from typing import Annotated

import typer

from ops import callback_secret, callbacks, dead_letters, demo, listen, maintain, provision, records, up
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
app.add_typer(callbacks.callbacks, name="callbacks")
app.add_typer(dead_letters.dead_letters, name="dead-letters")


@app.command("provision")
def run_provision(
    check: Annotated[bool, typer.Option("--check", help="Only compare; change nothing.")] = False,
) -> None:
    """Create or update the schema, the exchanges and queues, and the least-privilege logins."""
    raise typer.Exit(provision.main(check=check))


@app.command("maintain")
def run_maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go by the database's clock, however wrong it seems.")] = False,
) -> None:
    """Purge what is older than the retention settings say, in every table, in small batches beside everything else."""
    raise typer.Exit(maintain.main(dry_run=dry_run, yes=yes, force=force))


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


@app.command("callback-secret")
def run_callback_secret(
    client: Annotated[str | None, typer.Argument(help="A client of the key file; `anonymous` without one.")] = None,
    public: Annotated[bool, typer.Option("--public", help="The public key of `v1a` signatures instead.")] = False,
) -> None:
    """Print what a client verifies its callbacks with, newest first, from CALLBACK_SIGNING_KEYS."""
    raise typer.Exit(callback_secret.main(client, public=public))


@app.command("listen")
def run_listen(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    secret: Annotated[str | None, typer.Option(help="whsec_…; else from CALLBACK_SIGNING_KEYS.")] = None,
    client: Annotated[str | None, typer.Option(help="Verify as this client, from CALLBACK_SIGNING_KEYS.")] = None,
    status: Annotated[int, typer.Option(min=200, max=599, help="What to answer; 500 shows the retries.")] = 204,
) -> None:
    """Show and verify the callbacks that arrive here, until Ctrl-C."""
    verified_with = listen.secret_of(secret, client)
    raise typer.Exit(listen.main(verified_with, host=host, port=port, status=status))


def _told(work: Callable[[], int]) -> int:
    """The exit status; what cannot be had is told without a traceback."""
    try:
        return work()
    except StackError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        return error.exit_status


if __name__ == "__main__":
    app()

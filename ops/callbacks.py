"""The commands about callbacks. `list` and `show` need `DATABASE_URL`, `redeliver` needs `AMQP_URL`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import ValidationError

from ops import callbacks_log, callbacks_redeliver
from ops.records import parse_time
from shared.callback_commands import FILTER_KEYS, Redeliver
from shared.callbacks import Reason, State
from shared.commands import schema_faults

callbacks = typer.Typer(help="The log of callbacks, and redelivery.", invoke_without_command=True)

Session = Annotated[UUID | None, typer.Option(help="A sessionId.")]
Request = Annotated[UUID | None, typer.Option(help="A requestId.")]
InState = Annotated[State | None, typer.Option(case_sensitive=False)]
ForReason = Annotated[Reason | None, typer.Option(case_sensitive=False, help="Why it failed.")]
AtHost = Annotated[str | None, typer.Option(help="The host of the URL, without its port.")]
Begin = Annotated[
    datetime | None,
    typer.Option("--from", parser=parse_time, metavar="TIME", help="Created at or after this date or time (UTC)."),
]
End = Annotated[datetime | None, typer.Option("--to", parser=parse_time, metavar="TIME", help="Created before it.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@callbacks.callback()
def or_list(context: typer.Context) -> None:
    """List, show and send again what subscribers are owed."""
    if context.invoked_subcommand is None:
        raise typer.Exit(callbacks_log.list_callbacks(callbacks_log.Wanted(), as_json=False))


@callbacks.command("list")
def list_callbacks(  # noqa: PLR0913, PLR0917 - the options of a command
    session: Session = None,
    request: Request = None,
    state: InState = None,
    reason: ForReason = None,
    host: AtHost = None,
    begin: Begin = None,
    end: End = None,
    client: Annotated[str | None, typer.Option(help="Whose sessions and requests.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=callbacks_log.MOST)] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the log, newest first. A narrow terminal leaves columns out; --json has them all."""
    chosen = _Chosen(session, request, state, reason, host, begin, end)
    wanted = callbacks_log.Wanted(filter=chosen.filter() if chosen.is_any else None, client=client, limit=limit)
    raise typer.Exit(callbacks_log.list_callbacks(wanted, as_json=as_json))


@callbacks.command("show")
def show(callback_id: Annotated[UUID, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show one callback with every attempt at it and the exact signed body."""
    raise typer.Exit(callbacks_log.show(callback_id, as_json=as_json))


@callbacks.command("redeliver")
def redeliver(  # noqa: PLR0913, PLR0917 - as above
    callback_id: Annotated[UUID | None, typer.Argument(metavar="ID")] = None,
    session: Session = None,
    request: Request = None,
    state: InState = None,
    reason: ForReason = None,
    host: AtHost = None,
    begin: Begin = None,
    end: End = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Make one attempt more at a callback, or at each that matches every option given; at least one must be.

    Many go out in the background, at 50 a second and host at the most. Schedules are not touched.
    """
    wanted = _Chosen(session, request, state, reason, host, begin, end).filter(callback_id)
    raise typer.Exit(callbacks_redeliver.count(wanted) if dry_run else callbacks_redeliver.redeliver(wanted))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The options that choose callbacks."""

    session_id: UUID | None
    request_id: UUID | None
    state: State | None
    reason: Reason | None
    host: str | None
    created_from: datetime | None
    created_to: datetime | None

    @property
    def is_any(self) -> bool:
        return any(value is not None for value in self._values().values())

    def filter(self, callback_id: UUID | None = None) -> Redeliver:
        """Return the filter, or tell what is wrong with the command line."""
        try:
            return Redeliver(callback_id=callback_id, **self._values())
        except ValidationError as error:
            detail = schema_faults(error)[0]["detail"]
            options = "an ID, or --session, --request, --state, --reason, --host, --from, --to"
            nothing = f"must name at least one of {', '.join(FILTER_KEYS)}"
            raise typer.BadParameter(f"Name {options}." if detail == nothing else detail) from error

    def _values(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "request_id": self.request_id,
            "state": self.state,
            "reason": self.reason,
            "host": self.host,
            "created_from": self.created_from,
            "created_to": self.created_to,
        }

"""The commands: what may be asked of the session worker, as REST body and as queue message alike.

Field names are camelCase on the wire. Unknown keys are ignored. Parsing is strict: a number is no string.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from shared.errors import RejectCode, Rejected
from shared.fields import CallbackUrl, ConnectorId, Cost, EnergyKwh, Identifier, Metadata, Reason
from shared.messages import MAX_BODY_BYTES


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from error


# Headers of a command from the gateway: whom it serves, and whether that caller may act on every session.
CLIENT = "client"
PRIVILEGED = "privileged"

# UUIDs and times are strings in JSON; strict mode takes them from JSON text, but not a number for either.
JsonUuid = Annotated[UUID, Field(strict=False)]
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Command(BaseModel):
    """A request for a change. `TYPE` is its name on the queue."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )
    TYPE: ClassVar[str]


class RequestSession(Command):
    """May this driver charge at this station? If so, the session starts."""

    TYPE: ClassVar[str] = "session.request.v1"
    station_id: Identifier
    driver_id: Identifier
    callback_url: CallbackUrl
    connector_id: ConnectorId | None = None
    metadata: Metadata | None = None
    request_id: JsonUuid | None = None


class StartSession(Command):
    """Start a session on a charger."""

    TYPE: ClassVar[str] = "session.start.v1"
    charger_id: Identifier
    connector_id: ConnectorId | None = None
    driver_id: Identifier | None = None
    callback_url: CallbackUrl | None = None
    metadata: Metadata | None = None
    session_id: JsonUuid | None = None


class StopSession(Command):
    """End a session and price it. `final_cost` is for privileged callers and wins over any tariff."""

    TYPE: ClassVar[str] = "session.stop.v1"
    session_id: JsonUuid
    energy_kwh: EnergyKwh | None = None
    final_cost: Cost | None = None
    ended_at: UtcTime | None = None
    reason: Reason | None = None


class CancelSession(Command):
    """End a session that shall never be billed."""

    TYPE: ClassVar[str] = "session.cancel.v1"
    session_id: JsonUuid
    reason: Reason | None = None


SessionCommand = RequestSession | StartSession | StopSession | CancelSession

SESSION_COMMANDS: Final[Mapping[str, type[SessionCommand]]] = {
    model.TYPE: model for model in (RequestSession, StartSession, StopSession, CancelSession)
}


def parse_command(body: bytes, command_type: str) -> SessionCommand:
    """Return the command of this queue type.

    Raises Rejected with the code that the dead letter will carry.
    """
    model = SESSION_COMMANDS.get(command_type)
    if model is None:
        raise Rejected(RejectCode.UNKNOWN_TYPE, f"no command is called {command_type[:100]!r}")
    if len(body) > MAX_BODY_BYTES:
        raise Rejected(RejectCode.TOO_LARGE, f"{len(body)} bytes; at most {MAX_BODY_BYTES}")
    try:
        return model.model_validate_json(body, by_name=False)
    except ValidationError as error:
        raise reject(error) from error


def reject(error: ValidationError) -> Rejected:
    """Return the rejection that names every fault by JSON pointer."""
    faults = schema_faults(error)
    code = RejectCode.NOT_JSON if error.errors()[0]["type"] == "json_invalid" else RejectCode.SCHEMA_VIOLATION
    return Rejected(code, "; ".join(f"{fault['pointer'] or 'body'}: {fault['detail']}" for fault in faults))


def schema_faults(error: ValidationError) -> list[dict[str, str]]:
    """Return `{"pointer", "detail"}` per fault; pointers are RFC 6901, the whole body is the empty pointer."""
    return [
        {"pointer": _pointer(fault["loc"]), "detail": _detail(fault)}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _detail(fault: Any) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")


def canonical_body(command: SessionCommand) -> bytes:
    """Return the command as the JSON that goes on the queue: set fields only, decimals as strings."""
    return command.model_dump_json(by_alias=True, exclude_none=True).encode()

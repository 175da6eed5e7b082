"""The commands: what may be asked of the session worker, as REST body and as queue message alike.

Field names are camelCase on the wire. Unknown keys are ignored. Parsing is strict: a number is no string.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from shared.errors import RejectCode, Rejected
from shared.fields import (
    Amount,
    CallbackUrl,
    ConnectorId,
    Cost,
    Currency,
    EnergyKwh,
    Identifier,
    Metadata,
    MeterWh,
    Reason,
    TaxPercent,
    UnitPrice,
)
from shared.messages import MAX_BODY_BYTES

# What a meter or a person can mean; the ends of the calendar are infinity to the database driver.
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc_3339(value: object) -> object:
    if not isinstance(value, datetime) and not (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        raise ValueError("must be a time as in 2026-05-04T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    if not _EARLIEST <= value < _LATEST:
        raise ValueError("must lie between the years 2000 and 2099")
    return value.astimezone(UTC)


# What providers of hosted payment pages take: a link lives from half an hour to just below a day.
SHORTEST_LINK_MINUTES: Final = 30
LONGEST_LINK_MINUTES: Final = 1435

# Headers of a command from the gateway: whom it serves, and whether that caller may act on every session.
CLIENT = "client"
PRIVILEGED = "privileged"

# UUIDs and times are strings in JSON; strict mode takes them from JSON text, but not a number for either.
JsonUuid = Annotated[UUID, Field(strict=False)]
UtcTime = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]


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


Model = TypeVar("Model", bound=Command)


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


class RecordMeter(Command):
    """A meter's absolute register, in Wh. Without `measured_at` it counts as measured when it was accepted."""

    TYPE: ClassVar[str] = "session.meter.v1"
    session_id: JsonUuid
    meter_wh: MeterWh
    measured_at: UtcTime | None = None


class SetTariff(Command):
    """What sessions on these chargers are charged by from now on; `default` serves those that no other names."""

    TYPE: ClassVar[str] = "session.set_tariff.v1"
    name: Identifier
    currency: Currency
    flat: UnitPrice | None = None
    per_kwh: UnitPrice | None = None
    per_hour: UnitPrice | None = None
    per_idle_hour: UnitPrice | None = None
    step_wh: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    step_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    minimum: Cost | None = None
    maximum: Cost | None = None
    tax_percent: TaxPercent | None = None
    charger_ids: Annotated[list[Identifier], Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum must not be greater than maximum")
        return self


class DriverStatus(StrEnum):
    """What an operator, or a real-time authorization service, says of a driver."""

    ALLOWED = "ALLOWED"
    BLOCKED = "BLOCKED"
    EXPIRED = "EXPIRED"
    NO_CREDIT = "NO_CREDIT"


class SetDriver(Command):
    """Who may charge, when and where; `stations` null is anywhere."""

    TYPE: ClassVar[str] = "session.set_driver.v1"
    driver_id: Identifier
    status: Annotated[DriverStatus, Field(strict=False)]
    valid_from: UtcTime | None = None
    valid_until: UtcTime | None = None
    stations: Annotated[list[Identifier], Field(max_length=1000)] | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.valid_from is not None and self.valid_until is not None and self.valid_from >= self.valid_until:
            raise ValueError("validFrom must come before validUntil")
        return self


class RemoveDriver(Command):
    """Forget a driver, who is then unknown."""

    TYPE: ClassVar[str] = "session.remove_driver.v1"
    driver_id: Identifier


class SetStation(Command):
    """Whether a station takes requests."""

    TYPE: ClassVar[str] = "session.set_station.v1"
    station_id: Identifier
    open: bool
    reason: Reason | None = None


class RemoveStation(Command):
    """Forget a station, which is then unknown."""

    TYPE: ClassVar[str] = "session.remove_station.v1"
    station_id: Identifier


class RecreatePaymentLink(Command):
    """Replace the session's payment link. `force` does so even while a payment on the old one is being processed."""

    TYPE: ClassVar[str] = "payment.recreate_link.v1"
    session_id: JsonUuid
    expires_in_minutes: Annotated[int, Field(ge=SHORTEST_LINK_MINUTES, le=LONGEST_LINK_MINUTES)] | None = None
    force: bool = False


class RefundPayment(Command):
    """Give back what was paid for a session: `amount` of it, or all that is left."""

    TYPE: ClassVar[str] = "payment.refund.v1"
    session_id: JsonUuid
    amount: Amount | None = None
    reason: Reason | None = None


class ProviderEvent(Command):
    """Something happened at the payment provider; `event` names the objects, whose state is then read there."""

    TYPE: ClassVar[str] = "payment.provider_event.v1"
    provider: Identifier
    event_id: Identifier
    event: Metadata


SessionCommand = RequestSession | StartSession | StopSession | CancelSession | RecordMeter
DirectoryCommand = SetTariff | SetDriver | RemoveDriver | SetStation | RemoveStation
PaymentCommand = RecreatePaymentLink | RefundPayment | ProviderEvent
AnyCommand = SessionCommand | DirectoryCommand | PaymentCommand

COMMANDS: Final[Mapping[str, type[AnyCommand]]] = {
    model.TYPE: model
    for model in (
        RequestSession, StartSession, StopSession, CancelSession, RecordMeter,
        SetTariff, SetDriver, RemoveDriver, SetStation, RemoveStation,
        RecreatePaymentLink, RefundPayment, ProviderEvent,
    )
}  # fmt: skip


def parse_command(body: bytes, command_type: str) -> AnyCommand:
    """Return the command of this queue type.

    Raises Rejected with the code that the dead letter will carry.
    """
    return parse_as(COMMANDS, body, command_type)


def parse_as(models: Mapping[str, type[Model]], body: bytes, command_type: str) -> Model:
    """Return the command, of the model that has this queue type. Raises Rejected as above."""
    model = models.get(command_type)
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


def canonical_body(command: Command) -> bytes:
    """Return the command as the JSON that goes on the queue: set fields only, decimals as strings."""
    return command.model_dump_json(by_alias=True, exclude_none=True).encode()


def body_hash(command: Command) -> bytes:
    """Return what tells whether a message id comes again with the same meaning; the order of keys has none."""
    content = command.model_dump(mode="json", by_alias=True, exclude_none=True)
    return sha256(command.TYPE.encode() + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()

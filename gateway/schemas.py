"""The JSON of answers, as the documentation shows it. The answers themselves are built by `shared.resources`."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from shared.commands import DriverStatus
from shared.resources import Decision, Phase, Status


class Answer(BaseModel):
    """CamelCase on the wire. Every key is always there; null means "not known"."""

    model_config = ConfigDict(alias_generator=to_camel)


class RequestAcknowledged(Answer):
    """The broker has the request on disk."""

    status: Literal["acknowledged"]
    message: str


class SessionStarted(Answer):
    """The broker has the start on disk; it is applied within moments."""

    success: Literal[True]
    session_id: UUID
    charger_id: str
    message: str


class CommandAccepted(Answer):
    """The broker has the command on disk; the outcome comes as a callback."""

    success: Literal[True]
    session_id: UUID
    message: str


class DriverAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    driver_id: str
    message: str


class StationAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    station_id: str
    message: str


class TariffAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    name: str
    message: str


class DriverDeleted(Answer):
    """The driver is unknown now."""

    driver_id: str
    deleted: Literal[True]


class StationDeleted(Answer):
    """The station is unknown now."""

    station_id: str
    deleted: Literal[True]


PaymentStatus = Literal[
    "NOT_REQUIRED", "WAIVED", "PENDING", "PROCESSING", "PAID", "PARTIALLY_REFUNDED", "REFUNDED", "FAILED"
]


class Link(Answer):
    """Where a driver pays. A link that could not be made has no `url` and the status FAILED."""

    link_id: UUID
    url: str | None = Field(examples=["https://checkout.stripe.com/c/pay/cs_live_a1"])
    amount: str = Field(examples=["12.34"])
    currency: str = Field(examples=["EUR"])
    status: Literal["PENDING", "PAID", "FAILED", "EXPIRED", "REFUNDED"]
    expires_at: AwareDatetime


class PaymentLink(Link):
    """The current payment link of a session."""

    session_id: UUID


class Payment(Answer):
    """What the session owes and what was paid. NOT_REQUIRED costs nothing; WAIVED is too little to be collected."""

    status: PaymentStatus
    amount: str = Field(examples=["12.34"])
    currency: str = Field(examples=["EUR"])
    paid_amount: str = Field(examples=["0.00"])
    refunded_amount: str = Field(examples=["0.00"])
    provider: str = Field(examples=["stripe"])
    link: Link | None


class EventReceived(Answer):
    """The broker has the event on disk."""

    received: Literal[True]


class Session(Answer):
    """A charging session. Money and energy are decimal strings. In progress, `finalCost` is the cost so far.

    `payment` is null while nothing is owed.
    """

    session_id: UUID
    charger_id: str
    connector_id: str | None
    station_id: str | None
    driver_id: str | None
    request_id: UUID | None
    status: Status
    phase: Phase
    reason: str | None
    final_cost: str | None = Field(examples=["12.34"])
    currency: str | None = Field(examples=["EUR"])
    energy_kwh: str | None = Field(examples=["23.400000"])
    metadata: dict[str, Any] | None
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    payment: Payment | None


class SessionPage(Answer):
    """Newest first. `nextCursor` is null on the last page."""

    items: list[Session]
    next_cursor: str | None


class SessionRequest(Answer):
    """A charging session request. `decision` is null while it is pending."""

    request_id: UUID
    station_id: str
    driver_id: str
    connector_id: str | None
    decision: Decision | None
    reason: str | None
    session_id: UUID | None
    decided_at: AwareDatetime | None
    created_at: AwareDatetime


class Driver(Answer):
    """Who may charge, when and where; `stations` null is anywhere."""

    driver_id: str
    status: DriverStatus
    valid_from: AwareDatetime | None
    valid_until: AwareDatetime | None
    stations: list[str] | None
    reason: str | None
    updated_at: AwareDatetime


class Station(Answer):
    """Whether a station takes requests."""

    station_id: str
    open: bool
    reason: str | None
    updated_at: AwareDatetime


class Tariff(Answer):
    """What sessions are charged by. Prices are decimal strings, before tax; null is a part that there is not."""

    name: str
    currency: str = Field(examples=["EUR"])
    flat: str | None = Field(examples=["0.50"])
    per_kwh: str | None = Field(examples=["0.45"])
    per_hour: str | None
    per_idle_hour: str | None
    step_wh: int | None
    step_seconds: int | None
    minimum: str | None
    maximum: str | None
    tax_percent: str | None = Field(examples=["19"])
    charger_ids: list[str] | None
    updated_at: AwareDatetime


class SessionExport(Answer):
    """OCPI 2.2.1: the names and numbers are OCPI's. `cdr` is null until the session is completed and has a cost."""

    session: dict[str, Any]
    cdr: dict[str, Any] | None


class ProblemError(Answer):
    """One fault of a body (`pointer`, RFC 6901) or of a query (`parameter`)."""

    pointer: str = Field(default="", examples=["/chargerId"])
    parameter: str = ""
    detail: str = Field(examples=["Field required"])


class ProblemDetails(Answer):
    """Problem details, RFC 9457. `type` is stable; `detail` is for people."""

    type: str = Field(examples=["urn:voltline:problem:invalid-body"])
    title: str
    status: int
    detail: str
    instance: str
    reason: str | None = Field(default=None, examples=["CHARGER_BUSY"], description="The stable code of a refusal.")
    errors: list[ProblemError] = Field(default_factory=list)

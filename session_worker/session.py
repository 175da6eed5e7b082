"""A charging session and what is asked of it: the values that the rules in `decide` work on. Pure.

The public status has the seed's three words; `phase` says more. What an active session holds, no other may: its claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from shared.commands import AnyCommand, RequestSession, StartSession
from shared.meter import Meter, meter_json, meter_of
from shared.pricing import Tariff, tariff_json, tariff_of
from shared.resources import Decision, Phase


class Outcome(StrEnum):
    """What became of a command: the one end of each, except PARKED, which still waits for one."""

    APPLIED = "APPLIED"
    REFUSED = "REFUSED"
    PARKED = "PARKED"


class Reason(StrEnum):
    """Stable reason codes of refusals and of ends that nobody asked for in words."""

    CHARGER_BUSY = "CHARGER_BUSY"
    CONCURRENT_SESSION = "CONCURRENT_SESSION"
    UNKNOWN_SESSION = "UNKNOWN_SESSION"
    ALREADY_ENDED = "ALREADY_ENDED"
    SESSION_EXISTS = "SESSION_EXISTS"
    STOPPED_BEFORE_START = "STOPPED_BEFORE_START"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    NOT_PRIVILEGED = "NOT_PRIVILEGED"
    TOO_OLD = "TOO_OLD"
    STALE = "STALE"
    # Why a request was not allowed, is invalid, or stays unknown.
    UNKNOWN_DRIVER = "UNKNOWN_DRIVER"
    BLOCKED = "BLOCKED"
    EXPIRED = "EXPIRED"
    NO_CREDIT = "NO_CREDIT"
    NOT_ALLOWED = "NOT_ALLOWED"
    UNKNOWN_STATION = "UNKNOWN_STATION"
    STATION_CLOSED = "STATION_CLOSED"
    AUTHORIZATION_TIMEOUT = "AUTHORIZATION_TIMEOUT"
    AUTHORIZATION_FAILED = "AUTHORIZATION_FAILED"
    # Why a payment link is not made anew, or money not given back.
    PAYMENTS_OFF = "PAYMENTS_OFF"
    OTHER_PROVIDER = "OTHER_PROVIDER"
    NOT_COMPLETED = "NOT_COMPLETED"
    NOTHING_TO_PAY = "NOTHING_TO_PAY"
    ALREADY_PAID = "ALREADY_PAID"
    PAYMENT_PROCESSING = "PAYMENT_PROCESSING"
    LINK_FAILED = "LINK_FAILED"
    NOT_PAID = "NOT_PAID"
    ALREADY_REFUNDED = "ALREADY_REFUNDED"
    AMOUNT_TOO_LARGE = "AMOUNT_TOO_LARGE"
    INVALID_AMOUNT = "INVALID_AMOUNT"
    REFUND_FAILED = "REFUND_FAILED"
    UNKNOWN_PAYMENT = "UNKNOWN_PAYMENT"
    TOO_MANY = "TOO_MANY"


class Review(StrEnum):
    """Why somebody should look at a session before anybody bills it."""

    STALE = "STALE"
    ENDED_BEFORE_START = "ENDED_BEFORE_START"
    TOO_LONG = "TOO_LONG"
    TOO_MUCH_ENERGY = "TOO_MUCH_ENERGY"
    COST_TOO_HIGH = "COST_TOO_HIGH"
    CLOCK_SKEW = "CLOCK_SKEW"


Claim = tuple[str, str, str]
"""What an active session holds and no other may: a charger's connector, or a driver's place at a station."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One row of `charging_sessions`."""

    id: UUID
    charger_id: str
    connector_id: str | None
    station_id: str | None
    driver_id: str | None
    request_id: UUID | None
    phase: Phase
    reason: str | None = None
    final_cost: Decimal | None = None
    currency: str | None = None
    energy_kwh: Decimal | None = None
    metadata: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    client: str | None = None
    callback_url: str | None = None
    sequence: int = 0
    tariff: Tariff | None = None
    meter: Meter | None = None
    review: Review | None = None
    # What the outside sees of its debt; `payments` writes it.
    payment: Mapping[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        return self.phase in (Phase.COMPLETED, Phase.CANCELLED)

    @property
    def claim(self) -> Claim | None:
        """What this session holds while it is in progress."""
        if self.has_ended:
            return None
        if self.request_id is None or self.connector_id is not None:
            return charger_claim(self.charger_id, self.connector_id)
        return driver_claim(self.station_id or "", self.driver_id or "")

    def row(self) -> dict[str, Any]:
        """Return the columns by name."""
        values = {column: getattr(self, name) for name, column in _COLUMN_OF.items()}
        return values | {
            "phase": str(self.phase),
            "status": str(self.phase.status),
            "tariff": None if self.tariff is None else tariff_json(self.tariff),
            "meter": meter_json(self.meter),
            "needsReview": self.review is not None,
            "reviewReason": None if self.review is None else str(self.review),
        }


_COLUMN_OF: Final = {
    "id": "id", "charger_id": "chargerId", "connector_id": "connectorId", "station_id": "stationId",
    "driver_id": "driverId", "request_id": "requestId", "reason": "reason", "final_cost": "finalCost",
    "currency": "currency", "energy_kwh": "energyKwh", "metadata": "metadata", "started_at": "startedAt",
    "ended_at": "endedAt", "created_at": "createdAt", "updated_at": "updatedAt", "client": "client",
    "callback_url": "callbackUrl", "sequence": "sequence", "payment": "payment",
}  # fmt: skip


def session_of(row: Mapping[Any, Any]) -> Session:
    """Return the session of a row."""
    return Session(
        phase=Phase(row["phase"]),
        tariff=None if row["tariff"] is None else tariff_of(row["tariff"]),
        meter=meter_of(row["meter"]),
        review=None if row["reviewReason"] is None else Review(row["reviewReason"]),
        **{name: row[column] for name, column in _COLUMN_OF.items()},
    )


def charger_claim(charger_id: str, connector_id: str | None) -> Claim:
    """A charger without a named connector is one place; each named connector is another."""
    return ("charger", charger_id, connector_id or "")


def driver_claim(station_id: str, driver_id: str) -> Claim:
    """A request without a connector takes no charger; its driver may hold one session per station."""
    return ("driver", station_id, driver_id)


def request_claim(command: RequestSession) -> Claim:
    """What a request's session would hold."""
    if command.connector_id is not None:
        return charger_claim(command.station_id, command.connector_id)
    return driver_claim(command.station_id, command.driver_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A command with what its message says about it.

    `session_id` is the session or request that it is about; what is about neither has a derived id of its own there.
    `minted_at` is when it was made, where that is known.
    """

    command: AnyCommand
    message_id: UUID
    session_id: UUID
    client: str | None
    privileged: bool
    is_operator: bool = False
    accepted_at: datetime
    body_hash: bytes
    minted_at: datetime | None = None

    @property
    def claim(self) -> Claim | None:
        """What the session would hold that this command would start."""
        match self.command:
            case StartSession(charger_id=charger, connector_id=connector):
                return charger_claim(charger, connector)
            case RequestSession():
                return request_claim(self.command)
        return None

    def may_act_on(self, session: Session) -> bool:
        """A client acts on its own sessions, the operator and trusted partners on all."""
        return self.privileged or session.client == self.client


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One row of `charging_session_requests`; `decision` is None while it waits for one, until `deadline_at`."""

    id: UUID
    command: RequestSession
    message_id: UUID
    client: str | None
    created_at: datetime
    deadline_at: datetime | None = None
    decision: Decision | None = None
    reason: str | None = None
    session_id: UUID | None = None
    decided_at: datetime | None = None
    sequence: int = 0

    def row(self) -> dict[str, Any]:
        """Return the columns by name."""
        command = self.command
        return {
            "id": self.id, "stationId": command.station_id, "driverId": command.driver_id,
            "connectorId": command.connector_id, "callbackUrl": command.callback_url, "metadata": command.metadata,
            "client": self.client, "decision": self.decision, "reason": self.reason, "messageId": self.message_id,
            "sessionId": self.session_id, "decidedAt": self.decided_at, "createdAt": self.created_at,
            "deadlineAt": self.deadline_at, "sequence": self.sequence,
        }  # fmt: skip


def request_of(row: Mapping[Any, Any]) -> Request:
    """Return the request of a row."""
    command = RequestSession(
        station_id=row["stationId"],
        driver_id=row["driverId"],
        connector_id=row["connectorId"],
        callback_url=row["callbackUrl"],
        metadata=row["metadata"],
        request_id=row["id"],
    )
    return Request(
        id=row["id"],
        command=command,
        message_id=row["messageId"],
        client=row["client"],
        created_at=row["createdAt"],
        deadline_at=row["deadlineAt"],
        decision=None if row["decision"] is None else Decision(row["decision"]),
        reason=row["reason"],
        session_id=row["sessionId"],
        decided_at=row["decidedAt"],
        sequence=row["sequence"],
    )

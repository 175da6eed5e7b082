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

from shared.commands import RequestSession, SessionCommand, StartSession
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
        return values | {"phase": str(self.phase), "status": str(self.phase.status)}


_COLUMN_OF: Final = {
    "id": "id", "charger_id": "chargerId", "connector_id": "connectorId", "station_id": "stationId",
    "driver_id": "driverId", "request_id": "requestId", "reason": "reason", "final_cost": "finalCost",
    "currency": "currency", "energy_kwh": "energyKwh", "metadata": "metadata", "started_at": "startedAt",
    "ended_at": "endedAt", "created_at": "createdAt", "updated_at": "updatedAt", "client": "client",
    "callback_url": "callbackUrl", "sequence": "sequence",
}  # fmt: skip


def session_of(row: Mapping[Any, Any]) -> Session:
    """Return the session of a row."""
    return Session(phase=Phase(row["phase"]), **{name: row[column] for name, column in _COLUMN_OF.items()})


def charger_claim(charger_id: str, connector_id: str | None) -> Claim:
    """A charger without a named connector is one place; each named connector is another."""
    return ("charger", charger_id, connector_id or "")


def driver_claim(station_id: str, driver_id: str) -> Claim:
    """A request without a connector takes no charger; its driver may hold one session per station."""
    return ("driver", station_id, driver_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A command with what its message says about it. `session_id` is the session (or request) that it is about."""

    command: SessionCommand
    message_id: UUID
    session_id: UUID
    client: str | None
    privileged: bool
    accepted_at: datetime
    body_hash: bytes

    @property
    def claim(self) -> Claim | None:
        """What the session would hold that this command would start."""
        match self.command:
            case StartSession(charger_id=charger, connector_id=connector):
                return charger_claim(charger, connector)
            case RequestSession(station_id=station, connector_id=str(connector)):
                return charger_claim(station, connector)
            case RequestSession(station_id=station, driver_id=driver):
                return driver_claim(station, driver)
        return None

    def may_act_on(self, session: Session) -> bool:
        """A client acts on its own sessions, the operator and trusted partners on all."""
        return self.privileged or session.client == self.client


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One row of `charging_session_requests`, decided."""

    id: UUID
    command: RequestSession
    client: str | None
    decision: Decision
    reason: str | None
    session_id: UUID | None
    decided_at: datetime
    created_at: datetime

    def row(self) -> dict[str, Any]:
        """Return the columns by name."""
        command = self.command
        return {
            "id": self.id, "stationId": command.station_id, "driverId": command.driver_id,
            "connectorId": command.connector_id, "callbackUrl": command.callback_url, "metadata": command.metadata,
            "client": self.client, "decision": str(self.decision), "reason": self.reason,
            "sessionId": self.session_id, "decidedAt": self.decided_at, "createdAt": self.created_at,
        }  # fmt: skip

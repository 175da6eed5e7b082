"""The JSON of a session and of a request: one definition for reads, events and callbacks.

Money and energy are decimal strings, times RFC 3339 in UTC; null means "not known", never 0.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

_CENT: Final = Decimal("0.01")


class Status(StrEnum):
    """What the outside sees of a session: the three of `charging_sessions.status`."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class Phase(StrEnum):
    """Where a session stands; the first three are IN_PROGRESS to the outside."""

    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    STOPPING = "STOPPING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"

    @property
    def status(self) -> Status:
        return _STATUS[self]


_STATUS = {
    Phase.STARTING: Status.IN_PROGRESS,
    Phase.ACTIVE: Status.IN_PROGRESS,
    Phase.STOPPING: Status.IN_PROGRESS,
    Phase.COMPLETED: Status.COMPLETED,
    Phase.CANCELLED: Status.CANCELLED,
}


class Decision(StrEnum):
    """The answer to a charging-session request; null in JSON while pending."""

    ALLOWED = "allowed"
    NOT_ALLOWED = "not_allowed"
    INVALID = "invalid"
    UNKNOWN = "unknown"


# The columns that each JSON is made of; the reads of the gateway select exactly these.
SESSION_COLUMNS = (
    "id", "chargerId", "connectorId", "stationId", "driverId", "requestId", "status", "phase", "reason", "finalCost",
    "currency", "energyKwh", "metadata", "startedAt", "endedAt", "createdAt", "updatedAt", "payment",
)  # fmt: skip
REQUEST_COLUMNS = (
    "id", "stationId", "driverId", "connectorId", "decision", "reason", "sessionId", "decidedAt", "createdAt",
)  # fmt: skip


def session_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session JSON of a row of `charging_sessions`."""
    shown = {_renamed(name, "sessionId"): _plain(row[name]) for name in SESSION_COLUMNS}
    cost = row["finalCost"]
    return shown | {"finalCost": None if cost is None else money_text(cost)}


def request_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request JSON of a row of `charging_session_requests`."""
    return {_renamed(name, "requestId"): _plain(row[name]) for name in REQUEST_COLUMNS}


def rfc3339(value: datetime) -> str:
    """Return the time as RFC 3339 in UTC with milliseconds."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def money_text(amount: Decimal) -> str:
    """Return the amount with two places, as its column has it, whatever the currency: one way to write an amount."""
    return format(amount.quantize(_CENT), "f")


def _renamed(column: str, key: str) -> str:
    return key if column == "id" else column


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None or isinstance(value, dict | str):
        return value
    return str(value)

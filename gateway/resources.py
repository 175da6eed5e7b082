"""What can be read: the table, key and columns of each resource, and its JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from gateway.auth import Caller
from gateway.costs import cost_and_currency
from shared.resources import REQUEST_COLUMNS, SESSION_COLUMNS, request_json, rfc3339, session_json

REQUESTS_PATH: Final = "/api/charging-session-requests"
SESSIONS_PATH: Final = "/api/v1/session"
DRIVERS_PATH: Final = "/api/v1/drivers"
STATIONS_PATH: Final = "/api/v1/stations"
TARIFFS_PATH: Final = "/api/v1/tariffs"
PAYMENTS_PATH: Final = "/api/v1/payment"
PAYMENT_LINKS_PATH: Final = f"{PAYMENTS_PATH}/link"
CALLBACKS_PATH: Final = "/api/v1/callbacks"
SUBSCRIPTIONS_PATH: Final = "/api/v1/subscriptions"

Row = dict[str, Any]

_LINK_KEYS: Final = ("linkId", "url", "amount", "currency", "status", "expiresAt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of thing. `to_json` is given the row and the time at which it is shown.

    `condition` is SQL: what a row of the table must have to be such a thing.
    What is `is_own` has a name within its client only, so that operators, too, have theirs.
    """

    table: str
    key: str = "id"
    columns: tuple[str, ...]
    condition: str = "true"
    to_json: Callable[[Row, datetime], dict[str, Any]]
    is_own: bool = False

    def client_for(self, caller: Caller) -> str | None:
        """Return the client whose rows the caller may see; None is everybody's."""
        return caller.client if self.is_own else caller.sees_only


def live_session_json(row: Row, now: datetime) -> dict[str, Any]:
    """Return the session JSON; in progress, with what the session would cost if it ended now."""
    cost, currency = cost_and_currency(row, now)
    return session_json(row | {"finalCost": cost, "currency": currency})


def _request_json(row: Row, _: datetime) -> dict[str, Any]:
    return request_json(row)


def _payment_link_json(row: Row, _: datetime) -> dict[str, Any]:
    link = row["payment"]["link"]
    return {"sessionId": str(row["id"])} | {name: link[name] for name in _LINK_KEYS}


def callback_json(row: Row, _: datetime) -> dict[str, Any]:
    """Return the JSON of a callback as lists show it."""
    shown = plain_json(row)
    return {"callbackId": shown.pop("id"), **shown}


def _row_json(row: Row, _: datetime) -> dict[str, Any]:
    return plain_json(row)


def plain_json(row: Row) -> dict[str, Any]:
    """Return the row with its times and decimals as JSON has them."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, UUID):  # asyncpg's are of a subclass, which orjson does not know
        return str(value)
    return format(value, "f") if isinstance(value, Decimal) else value


SESSION: Final = Resource(
    table="charging_sessions",
    columns=(*SESSION_COLUMNS, "tariff", "meter", "reviewReason"),
    to_json=live_session_json,
)
# The current link of a session; one that could not be made has no URL, and is shown all the same.
PAYMENT_LINK: Final = Resource(
    table="charging_sessions",
    columns=("id", "payment"),
    condition="jsonb_typeof(payment -> 'link') = 'object'",
    to_json=_payment_link_json,
)
REQUEST: Final = Resource(table="charging_session_requests", columns=REQUEST_COLUMNS, to_json=_request_json)
DRIVER: Final = Resource(
    table="drivers",
    key="driverId",
    columns=("driverId", "status", "validFrom", "validUntil", "stations", "reason", "updatedAt"),
    to_json=_row_json,
)
STATION: Final = Resource(
    table="stations", key="stationId", columns=("stationId", "open", "reason", "updatedAt"), to_json=_row_json
)
TARIFF: Final = Resource(
    table="tariffs",
    key="name",
    columns=(
        "name", "currency", "flat", "perKwh", "perHour", "perIdleHour", "stepWh", "stepSeconds", "minimum", "maximum",
        "taxPercent", "chargerIds", "updatedAt",
    ),
    to_json=_row_json,
)  # fmt: skip
# A callback as lists show it; the log adds its body and attempts.
CALLBACK: Final = Resource(
    table="callback_deliveries",
    columns=(
        "id", "eventId", "type", "sessionId", "requestId", "url", "state", "reason", "attemptCount", "nextAttemptAt",
        "createdAt", "deliveredAt",
    ),
    to_json=callback_json,
)  # fmt: skip
SUBSCRIPTION: Final = Resource(
    table="callback_subscriptions",
    key="name",
    columns=("name", "url", "types", "paused", "createdAt", "updatedAt"),
    to_json=_row_json,
    is_own=True,
)

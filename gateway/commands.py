"""What each POST is: its path, its body, the id it is given, and the acknowledgement, byte for byte.

`COMMANDS` drives the endpoint and the documentation alike; a new command is a new entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from pydantic import BeforeValidator
from pydantic.json_schema import SkipJsonSchema

from gateway.auth import Scope
from shared.commands import CancelSession, RequestSession, SessionCommand, StartSession, StopSession

REQUESTS_PATH = "/api/charging-session-requests"
SESSIONS_PATH = "/api/v1/session"

# Over REST the gateway names things: an id in the body is an unknown key like any other.
_Ignored = SkipJsonSchema[Annotated[UUID | None, BeforeValidator(lambda _: None)]]


class RequestSessionBody(RequestSession):
    """May this driver charge at this station? The answer comes to `callbackUrl`."""

    request_id: _Ignored = None


class StartSessionBody(StartSession):
    """The charger, and what else is known of the session."""

    session_id: _Ignored = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRoute:
    """One POST. `named` is the field that takes the id of the message; without one the body names its session."""

    path: str
    body: type[SessionCommand]
    status: int
    acknowledge: Callable[[Any], bytes]
    named: str | None = None
    location: str | None = None
    scope: Scope = Scope.SESSIONS
    privileged_fields: tuple[str, ...] = ()
    summary: str
    description: str
    example: Mapping[str, Any] = field(default_factory=dict)
    acknowledgement_example: Mapping[str, Any] = field(default_factory=dict)


def in_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON as the seeds print it: two spaces, no newline at the end."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


REQUEST_ACKNOWLEDGED: Final = {"status": "acknowledged", "message": "Charging Session request received"}
_REQUEST_ACKNOWLEDGED_JSON: Final = in_json(REQUEST_ACKNOWLEDGED)
_EXAMPLE_ID: Final = "123e4567-e89b-12d3-a456-426614174000"


def _acknowledge_request(_: RequestSession) -> bytes:
    return _REQUEST_ACKNOWLEDGED_JSON


def _started(session_id: str, charger_id: str) -> dict[str, Any]:
    message = "Charging session started successfully"
    return {"success": True, "sessionId": session_id, "chargerId": charger_id, "message": message}


def _acknowledge_start(command: StartSession) -> bytes:
    return in_json(_started(str(command.session_id), command.charger_id))


def _taken(session_id: str, what: str) -> dict[str, Any]:
    return {"success": True, "sessionId": session_id, "message": f"Charging session {what} request received"}


def _acknowledge_stop(command: StopSession) -> bytes:
    return in_json(_taken(str(command.session_id), "stop"))


def _acknowledge_cancel(command: CancelSession) -> bytes:
    return in_json(_taken(str(command.session_id), "cancel"))


COMMANDS: Final = (
    CommandRoute(
        path=REQUESTS_PATH,
        body=RequestSessionBody,
        status=200,
        acknowledge=_acknowledge_request,
        named="request_id",
        location=REQUESTS_PATH,
        summary="Charging Session Request",
        description=(
            "Submits a charging session request. The decision, and what becomes of the session, is sent to "
            "`callbackUrl`; it can also be read at the address in `Location`."
        ),
        example={
            "stationId": "9673200c-05a1-4b2d-aa4c-9deb130981a2",
            "driverId": "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL",
            "callbackUrl": "https://webhook.site/{id}",
        },
        acknowledgement_example=REQUEST_ACKNOWLEDGED,
    ),
    CommandRoute(
        path=f"{SESSIONS_PATH}/start",
        body=StartSessionBody,
        status=202,
        acknowledge=_acknowledge_start,
        named="session_id",
        location=SESSIONS_PATH,
        summary="Start a new charging session",
        description="Starts a session on a charger. The session can be read at the address in `Location` once applied.",
        example={
            "chargerId": "CHARGER-001",
            "metadata": {
                "location": "Station A, Bay 3",
                "connectorType": "CCS",
                "maxPower": "150kW",
                "stationName": "Downtown Charging Hub",
            },
        },
        acknowledgement_example=_started(_EXAMPLE_ID, "CHARGER-001"),
    ),
    CommandRoute(
        path=f"{SESSIONS_PATH}/stop",
        body=StopSession,
        status=202,
        acknowledge=_acknowledge_stop,
        privileged_fields=("final_cost",),
        summary="Stop a charging session",
        description="Ends a session and prices it. `finalCost` wins over any tariff and needs the scope `operator`.",
        example={"sessionId": _EXAMPLE_ID, "energyKwh": "23.4", "reason": "DRIVER"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "stop"),
    ),
    CommandRoute(
        path=f"{SESSIONS_PATH}/cancel",
        body=CancelSession,
        status=202,
        acknowledge=_acknowledge_cancel,
        summary="Cancel a charging session",
        description="Ends a session that shall never be billed.",
        example={"sessionId": _EXAMPLE_ID, "reason": "VEHICLE_LEFT"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "cancel"),
    ),
)

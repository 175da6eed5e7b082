"""The commands about sessions: request, start, stop, cancel, meter values; their acknowledgements, byte for byte."""

from typing import Any, Final

from gateway.command_route import CommandRoute, IdFrom, IgnoredId, in_json
from gateway.resources import REQUEST, REQUESTS_PATH, SESSION, SESSIONS_PATH
from shared.commands import CancelSession, RecordMeter, RequestSession, StartSession, StopSession


class RequestSessionBody(RequestSession):
    """May this driver charge at this station? The answer comes to `callbackUrl`."""

    request_id: IgnoredId = None


class StartSessionBody(StartSession):
    """The charger, and what else is known of the session."""

    session_id: IgnoredId = None


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
    return {"success": True, "sessionId": session_id, "message": f"Charging session {what} received"}


def _acknowledge_stop(command: StopSession) -> bytes:
    return in_json(_taken(str(command.session_id), "stop request"))


def _acknowledge_cancel(command: CancelSession) -> bytes:
    return in_json(_taken(str(command.session_id), "cancel request"))


def _acknowledge_meter(command: RecordMeter) -> bytes:
    return in_json(_taken(str(command.session_id), "meter value"))


SESSION_COMMANDS: Final = (
    CommandRoute(
        path=REQUESTS_PATH,
        body=RequestSessionBody,
        status=200,
        key="request_id",
        id_from=IdFrom.MESSAGE,
        acknowledge=_acknowledge_request,
        resource=REQUEST,
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
        key="session_id",
        id_from=IdFrom.MESSAGE,
        acknowledge=_acknowledge_start,
        resource=SESSION,
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
        key="session_id",
        acknowledge=_acknowledge_stop,
        resource=SESSION,
        privileged_fields=("final_cost",),
        summary="Stop a charging session",
        description="Ends a session and prices it. `finalCost` wins over any tariff and needs the scope `operator`.",
        example={"sessionId": _EXAMPLE_ID, "energyKwh": "23.4", "reason": "DRIVER"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "stop request"),
    ),
    CommandRoute(
        path=f"{SESSIONS_PATH}/cancel",
        body=CancelSession,
        key="session_id",
        acknowledge=_acknowledge_cancel,
        resource=SESSION,
        summary="Cancel a charging session",
        description="Ends a session that shall never be billed.",
        example={"sessionId": _EXAMPLE_ID, "reason": "VEHICLE_LEFT"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "cancel request"),
    ),
    CommandRoute(
        path=f"{SESSIONS_PATH}/meter-values",
        body=RecordMeter,
        key="session_id",
        acknowledge=_acknowledge_meter,
        resource=SESSION,
        summary="Record a meter value",
        description=(
            "Takes the meter's absolute register in Wh. Values may come twice and out of order; without `measuredAt` "
            "a value counts as measured when it was accepted."
        ),
        example={"sessionId": _EXAMPLE_ID, "meterWh": "1234567.5", "measuredAt": "2026-05-04T12:34:56Z"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "meter value"),
    ),
)

"""The callbacks object of the documentation: what is posted to the `callbackUrl` of a request or a start."""

from typing import Any, Final

from shared.events import EventType

_EXAMPLE: Final = {
    "type": "session.completed",
    "timestamp": "2026-05-04T12:34:56.789Z",
    "data": {"sessionId": "123e4567-e89b-12d3-a456-426614174000", "status": "COMPLETED", "sequence": 2},
}
_BODY: Final = {
    "type": "object",
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {"type": "string", "enum": [str(each) for each in EventType]},
        "timestamp": {"type": "string", "format": "date-time"},
        "data": {
            "type": "object",
            "required": ["sequence"],
            "properties": {"sequence": {"type": "integer", "minimum": 1}},
            "description": "The session or request as a GET shows it, and `sequence`, from 1: drop what is older.",
        },
    },
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}


EVENT_CALLBACKS: Final[dict[str, Any]] = {
    "event": {
        "{$request.body#/callbackUrl}": {
            "post": {
                "summary": "An event of the session or request",
                "description": "Signed by Standard Webhooks 1.0, and repeated until it is delivered or given up.",
                "parameters": [
                    _header("webhook-id", "The event's id, the same on every attempt: what comes twice has it twice."),
                    _header("webhook-timestamp", "When this attempt was made, in seconds since 1970."),
                    _header("webhook-signature", "One `v1,` entry for each live key, over `id.timestamp.body`."),
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _BODY, "example": _EXAMPLE}},
                },
                "responses": {
                    "2XX": {"description": "Delivered; the body does not matter."},
                    "410": {"description": "Gone: nothing more is sent there for this session or request."},
                    "default": {
                        "description": (
                            "Not delivered. 408, 425, 429 and 5xx are repeated on the schedule, not before "
                            "`Retry-After`; any other 4xx once; a redirect is not followed."
                        )
                    },
                },
            }
        }
    }
}

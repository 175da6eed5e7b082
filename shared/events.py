"""Events: committed facts, as they travel from the outbox over the queue to a callback.

The body of an event message is, byte for byte, the body that subscribers get and that the signature covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from shared.errors import RejectCode, Rejected
from shared.messages import Inbound, Message, Outgoing
from shared.resources import rfc3339
from shared.topology import EVENTS

VERSION = ".v1"

# Headers of an event message. The callback URL is there and not in the body: subscribers need not see it.
CALLBACK_URL = "callback-url"
CLIENT = "client"
SESSION_ID = "session-id"
REQUEST_ID = "request-id"


class EventType(StrEnum):
    """What a callback's `type` says; on the queue the version is appended."""

    REQUEST_DECIDED = "request.decided"
    SESSION_STARTED = "session.started"
    SESSION_COMPLETED = "session.completed"
    SESSION_CANCELLED = "session.cancelled"
    COMMAND_REJECTED = "session.command_rejected"
    PAYMENT_LINK_CREATED = "payment.link_created"
    PAYMENT_PAID = "payment.paid"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_REFUNDED = "payment.refunded"
    PAYMENT_REFUND_FAILED = "payment.refund_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact about one session or request. `data` is JSON-ready and holds `sequence`."""

    event_id: UUID
    type: EventType
    occurred_at: datetime
    data: Mapping[str, Any]
    session_id: UUID | None
    request_id: UUID | None
    callback_url: str | None
    client: str | None
    caused_by: UUID

    def body(self) -> str:
        """Return the text that is stored, published, signed and posted."""
        content = {"type": self.type, "timestamp": rfc3339(self.occurred_at), "data": self.data}
        return orjson.dumps(content).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """An event as a consumer of `charging.events` reads it."""

    event_id: UUID
    type: str
    body: str
    session_id: UUID | None
    request_id: UUID | None
    callback_url: str | None
    client: str | None


def outbox_entry(event: Event) -> dict[str, Any]:
    """Return the event as JSON for the outbox; `outgoing` turns it into a message again."""
    headers = {
        CALLBACK_URL: event.callback_url,
        CLIENT: event.client,
        SESSION_ID: _text(event.session_id),
        REQUEST_ID: _text(event.request_id),
        "causation-id": str(event.caused_by),
    }
    return {
        "messageId": str(event.event_id),
        "type": event.type + VERSION,
        "correlationId": _text(event.session_id or event.request_id),
        "occurredAt": rfc3339(event.occurred_at),
        "headers": {name: value for name, value in headers.items() if value is not None},
        "body": event.body(),
    }


def outgoing(entry: Mapping[str, Any]) -> Outgoing:
    """Return the message of an outbox entry."""
    message = Message(
        body=entry["body"].encode(),
        message_id=entry["messageId"],
        type=entry["type"],
        timestamp=datetime.fromisoformat(entry["occurredAt"]),
        correlation_id=entry["correlationId"],
        headers=entry["headers"],
    )
    return Outgoing(exchange=EVENTS, routing_key=entry["type"], message=message)


def parse_event(inbound: Inbound) -> ReceivedEvent:
    """Return the event of a message from `charging.events`. Raises Rejected."""
    message = inbound.message
    if message.message_id is None:
        raise Rejected(RejectCode.NO_MESSAGE_ID, "an event needs a message_id, its event id")
    headers = message.headers
    try:
        body = message.body.decode()
        kind = orjson.loads(body)["type"]
        return ReceivedEvent(
            event_id=UUID(message.message_id),
            type=_required_text(kind, "type"),
            body=body,
            session_id=_uuid(headers.get(SESSION_ID)),
            request_id=_uuid(headers.get(REQUEST_ID)),
            callback_url=_optional_text(headers.get(CALLBACK_URL), CALLBACK_URL),
            client=_optional_text(headers.get(CLIENT), CLIENT),
        )
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise Rejected(RejectCode.NOT_JSON, str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(RejectCode.SCHEMA_VIOLATION, f"not an event: {error}") from error


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _uuid(value: object) -> UUID | None:
    return None if value is None else UUID(_required_text(value, "id"))


def _optional_text(value: object, name: str) -> str | None:
    return None if value is None else _required_text(value, name)


def _required_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value

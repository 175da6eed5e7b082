"""Builders of domain values with overridable defaults."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

from session_worker.session import Received
from shared.broker.consumer import Batch
from shared.broker.hold import Hold
from shared.commands import AnyCommand, CancelSession, RecordMeter, RequestSession, StartSession, StopSession
from shared.messages import Inbound, Message

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
CALLBACK_URL = "https://subscriber.example/callbacks"


class Seconds:
    """A clock that stands until told otherwise."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def received(command: AnyCommand, session_id: UUID, **changes: Any) -> Received:
    """A command as the worker received it just now, from a caller that may do everything."""
    defaults: dict[str, Any] = {
        "message_id": uuid4(),
        "client": "app",
        "privileged": True,
        "accepted_at": NOW,
        "body_hash": b"hash",
    }
    return Received(command=command, session_id=session_id, **(defaults | changes))


def start(session_id: UUID, **changes: Any) -> Received:
    fields = {"charger_id": "CHARGER-001", "callback_url": CALLBACK_URL, **changes.pop("fields", {})}
    return received(StartSession(session_id=session_id, **fields), session_id, **changes)


def request(request_id: UUID, **changes: Any) -> Received:
    fields = {
        "station_id": "STATION-1",
        "driver_id": "DRIVER-1",
        "callback_url": CALLBACK_URL,
        **changes.pop("fields", {}),
    }
    return received(RequestSession(request_id=request_id, **fields), request_id, **changes)


def stop(session_id: UUID, **changes: Any) -> Received:
    return received(StopSession(session_id=session_id, **changes.pop("fields", {})), session_id, **changes)


def cancel(session_id: UUID, **changes: Any) -> Received:
    return received(CancelSession(session_id=session_id, **changes.pop("fields", {})), session_id, **changes)


def meter(session_id: UUID, wh: float, **changes: Any) -> Received:
    fields = {"meter_wh": Decimal(str(wh)), **changes.pop("fields", {})}
    return received(RecordMeter(session_id=session_id, **fields), session_id, **changes)


def batch(messages: Sequence[Inbound], channel: object) -> Batch:
    """What a consumer of this channel gives to its loop; nobody hears of its end."""
    return Batch(tuple(messages), cast("Any", channel), Hold(), lambda: None)


def inbound(body: bytes, **changes: Any) -> Inbound:
    """A message as a partner publishes a start: body, message_id, routing key."""
    message = {"message_id": str(uuid4()), "type": None, **changes.pop("message", {})}
    defaults: dict[str, Any] = {
        "exchange": "charging.partners",
        "routing_key": "session.start.v1",
        "redelivered": False,
        "delivery_tag": 1,
    }
    return Inbound(message=Message(body=body, **message), **(defaults | changes))

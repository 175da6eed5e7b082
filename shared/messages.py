"""A message as the broker carries it: bytes and properties, free of any client library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

# What is larger is no command of ours. The broker's max_message_size bounds what a consumer may be handed.
MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The body and the AMQP properties; `other` holds those that this product only hands on."""

    body: bytes
    message_id: str | None
    type: str | None
    timestamp: datetime | None = None
    content_type: str | None = "application/json"
    correlation_id: str | None = None
    user_id: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    other: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message and where it goes. `mandatory` makes a publish that no queue takes fail."""

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A message as it came from a queue. `unreadable` holds the raw properties where they could not be decoded."""

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool
    delivery_tag: int
    unreadable: bytes | None = None

"""AMQP properties to messages and back, with a decoder that no partner's message can break.

pamqp raises on a timestamp of 2^62, on text that is not UTF-8, on unknown field types and on deep nesting; aiormq then
drops the connection, the broker redelivers, and the queue never moves again. Here such properties become `Unreadable`.
"""

import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

from aiormq.abc import DeliveredMessage
from pamqp import encode
from pamqp.commands import Basic
from pamqp.common import FieldTable
from pamqp.header import ContentHeader

from shared.messages import Inbound, Message

_PERSISTENT: Final = 2
# class id, weight and body size come before the property flags (AMQP 0-9-1, 4.2.6.1).
_FIXED_HEADER: Final = struct.Struct(">HHQ")
_TAG_AND_BITS: Final = struct.Struct(">QB")
_REPLY_CODE: Final = struct.Struct(">H")
_MESSAGE_COUNT: Final = struct.Struct(">I")
_OTHER: Final = ("app_id", "content_encoding", "priority", "reply_to")
# A content header must fit one frame of 128 KiB; headers above this are left out of a dead letter.
_MAX_HEADERS_BYTES: Final = 64 * 1024

_strict_unmarshal = ContentHeader.unmarshal
_strict_deliver = Basic.Deliver.unmarshal
_strict_get_ok = Basic.GetOk.unmarshal
_strict_return = Basic.Return.unmarshal


class Unreadable(Basic.Properties):
    """Empty properties in place of some that could not be decoded; `raw` keeps those."""

    raw: bytes = b""


class _EmptyId(str):
    """An empty message_id that goes on the wire as it is.

    aiormq gives a message with a false id one of its own, and pamqp leaves out what equals the empty string; yet aiormq
    needs an id to tell which publish the broker returned.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return True


def install_tolerant_decoder() -> None:
    """Make pamqp's decoders of what partners can shape total. Idempotent; called before the first connection."""
    ContentHeader.unmarshal = _tolerant_unmarshal  # type: ignore[method-assign, assignment]
    Basic.Deliver.unmarshal = _tolerant_deliver  # type: ignore[method-assign, assignment]
    Basic.GetOk.unmarshal = _tolerant_get_ok  # type: ignore[method-assign, assignment]
    Basic.Return.unmarshal = _tolerant_return  # type: ignore[method-assign, assignment]


def _tolerant_deliver(frame: Basic.Deliver, data: bytes) -> None:
    """A routing key may be any bytes; what is not UTF-8 is kept as surrogates (PEP 383)."""
    try:
        _strict_deliver(frame, data)
    except ValueError:
        frame.consumer_tag, rest = _short_text(data)
        _read_delivery(frame, rest)


def _tolerant_get_ok(frame: Basic.GetOk, data: bytes) -> None:
    try:
        _strict_get_ok(frame, data)
    except ValueError:
        (frame.message_count,) = _MESSAGE_COUNT.unpack(_read_delivery(frame, data))


def _read_delivery(frame: Basic.Deliver | Basic.GetOk, data: bytes) -> bytes:
    frame.delivery_tag, bits = _TAG_AND_BITS.unpack(data[: _TAG_AND_BITS.size])
    frame.redelivered = bool(bits & 1)
    frame.exchange, rest = _short_text(data[_TAG_AND_BITS.size :])
    frame.routing_key, rest = _short_text(rest)
    return rest


def _tolerant_return(frame: Basic.Return, data: bytes) -> None:
    try:
        _strict_return(frame, data)
    except ValueError:
        (frame.reply_code,) = _REPLY_CODE.unpack(data[: _REPLY_CODE.size])
        frame.reply_text, rest = _short_text(data[_REPLY_CODE.size :])
        frame.exchange, rest = _short_text(rest)
        frame.routing_key, _ = _short_text(rest)


def _short_text(data: bytes) -> tuple[str, bytes]:
    end = 1 + data[0]
    return data[1:end].decode("utf-8", "surrogateescape"), data[end:]


def printable(text: str) -> str:
    """Return text that any encoder takes: bytes that were not UTF-8 as `\\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tolerant_unmarshal(header: ContentHeader, data: bytes) -> None:
    try:
        _strict_unmarshal(header, data)
    except Exception:  # whatever the decoder stumbles over, the message goes to the dead letters, not the connection
        header.class_id, header.weight, header.body_size = _FIXED_HEADER.unpack(data[: _FIXED_HEADER.size])
        header.properties = Unreadable()
        header.properties.raw = data[_FIXED_HEADER.size :]


def inbound(delivered: DeliveredMessage) -> Inbound:
    """Return the message that aiormq delivered."""
    delivery, properties = delivered.delivery, delivered.header.properties
    assert isinstance(delivery, Basic.Deliver | Basic.GetOk)
    assert delivery.delivery_tag is not None
    return Inbound(
        message=_message(bytes(delivered.body), properties),
        exchange=delivery.exchange or "",
        routing_key=delivery.routing_key or "",
        redelivered=bool(delivery.redelivered),
        delivery_tag=delivery.delivery_tag,
        unreadable=properties.raw if isinstance(properties, Unreadable) else None,
    )


def _message(body: bytes, properties: Basic.Properties) -> Message:
    other = {name: getattr(properties, name) for name in (*_OTHER, "expiration")}
    return Message(
        body=body,
        message_id=properties.message_id or None,
        type=properties.message_type or None,
        timestamp=properties.timestamp if isinstance(properties.timestamp, datetime) else None,
        content_type=properties.content_type or None,
        correlation_id=properties.correlation_id or None,
        user_id=properties.user_id or None,
        headers=properties.headers or {},
        other={name: value for name, value in other.items() if value is not None},
    )


def properties(message: Message) -> Basic.Properties:
    """Return persistent AMQP properties for a publish. Nothing expires; only what is redriven has a `user_id`."""
    return Basic.Properties(
        delivery_mode=_PERSISTENT,
        message_id=message.message_id or _EmptyId(),
        message_type=message.type or "",
        timestamp=message.timestamp,
        content_type=message.content_type or "",
        correlation_id=message.correlation_id or "",
        user_id=message.user_id or "",
        headers=cast("FieldTable", dict(message.headers)),
        **cast("dict[str, Any]", {name: message.other[name] for name in _OTHER if name in message.other}),
    )


def encodable(headers: Mapping[str, object]) -> dict[str, Any]:
    """Return the headers that AMQP can carry: odd values as text, all of them only while they fit a frame."""
    kept = {name: value if _fits_table({name: value}) else repr(value) for name, value in headers.items()}
    return kept if _fits_table(kept) else {"original-headers": "left out: too large"}


def _fits_table(table: dict[str, Any]) -> bool:
    try:
        return len(encode.field_table(table)) <= _MAX_HEADERS_BYTES
    except (TypeError, ValueError, struct.error, OverflowError, RecursionError):
        return False

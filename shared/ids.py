"""Identifiers: time-ordered ones for new things, derived ones where the same input must give the same id."""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

# The root of every derived id of this product; any fixed value serves, it must only never change.
NAMESPACE = UUID("6f1d1a52-6b7e-5d0c-9a3e-3f1f0c6d8e11")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_ORDERED = 7


def uuid7(at: datetime | None = None) -> UUID:
    """Return a UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, now or at that time, then 74 random bits."""
    ms = time.time_ns() // 1_000_000 if at is None else int(at.timestamp() * 1000)
    value = int.from_bytes(os.urandom(10), "big") | (ms & (1 << 48) - 1) << 80
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def minted_at(value: UUID) -> datetime | None:
    """Return when a UUIDv7 was made, by its maker's clock; None for any other, and for a year beyond 9999."""
    if value.version != _TIME_ORDERED:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=value.int >> 80)
    except OverflowError:
        return None


def least_id(at: datetime) -> UUID:
    """Return the id that no UUIDv7 made at or after `at` is less than."""
    return UUID(int=max(0, (at - _EPOCH) // timedelta(milliseconds=1)) << 80)


def idempotent_id(client: str, key: str) -> UUID:
    """Return the message id that this client's Idempotency-Key always stands for."""
    return uuid5(NAMESPACE, f"{client}\n{key}")


def event_id(cause: UUID, index: int) -> UUID:
    """Return the id of the event number `index` that the message `cause` brought about."""
    return uuid5(cause, f"event {index}")


def conflict_id(message_id: UUID, body_hash: bytes) -> UUID:
    """Return the inbox id of a message that reuses `message_id` for another body: one refusal per such body."""
    return uuid5(message_id, f"conflict {body_hash.hex()}")

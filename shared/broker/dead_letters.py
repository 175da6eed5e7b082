"""Dead letters: a message that nobody can understand, set aside unchanged with the reason beside it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from shared.broker.properties import encodable, printable
from shared.errors import Rejected
from shared.messages import Inbound, Message, Outgoing
from shared.resources import rfc3339
from shared.topology import DEAD

# The broker reads these wherever they come from: CC and BCC route copies, x-… headers steer dead-lettering.
BROKER_READS: Final = ("cc", "bcc")
BROKER_PREFIX: Final = "x-"
# Ours; a sender's own headers of these names are kept beside them.
REASON: Final = ("error", "error-detail", "failed-at", "failed-by")
ORIGINAL: Final = "original-"
_MAX_DETAIL_CHARS: Final = 1000


def dead_letter(inbound: Inbound, queue: str, rejected: Rejected, *, failed_by: str, now: datetime) -> Outgoing:
    """Return the dead letter: body and properties as they came, plus `error`, `error-detail`, `failed-at`, `failed-by`.

    What would make the broker act (user_id, expiration, CC, x-death) is kept under another name, `original-…`.
    """
    message = inbound.message
    reason = {
        "error": str(rejected.code),
        "error-detail": rejected.detail[:_MAX_DETAIL_CHARS],
        "failed-at": rfc3339(now),
        "failed-by": failed_by,
        "original-exchange": inbound.exchange,
        "original-routing-key": printable(inbound.routing_key),
    }
    letter = Message(
        body=message.body,
        message_id=message.message_id,
        type=message.type,
        timestamp=message.timestamp,
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        headers=encodable(_harmless(message.headers) | _set_aside(inbound)) | reason,
        other=message.other,
    )
    return Outgoing(exchange=DEAD, routing_key=queue, message=letter)


def _harmless(headers: Mapping[str, object]) -> dict[str, object]:
    return {_renamed(name): value for name, value in headers.items()}


def _renamed(name: str) -> str:
    lower = name.lower()
    is_taken = lower in BROKER_READS or lower in REASON or lower.startswith(BROKER_PREFIX)
    return ORIGINAL + name if is_taken else name


def _set_aside(inbound: Inbound) -> dict[str, object]:
    kept: dict[str, object] = {}
    if inbound.message.user_id is not None:
        kept["original-user-id"] = inbound.message.user_id
    if "expiration" in inbound.message.other:
        kept["original-expiration"] = inbound.message.other["expiration"]
    if inbound.unreadable is not None:
        kept["original-properties"] = inbound.unreadable.hex()
    return kept

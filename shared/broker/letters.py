"""A dead letter as people read it, and the message that it was before it died.

A worker tells why in headers of ours (`dead_letters.py`), the broker in `x-death`; what no queue took bears nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shared.broker.dead_letters import BROKER_PREFIX, BROKER_READS, ORIGINAL, REASON
from shared.broker.properties import encodable, printable
from shared.errors import CannotRedrive
from shared.messages import Inbound, Outgoing
from shared.resources import rfc3339
from shared.topology import COMMANDS, PARTNERS, UNROUTED_QUEUE, WORK_QUEUES, Queue, dead_letter_queue

UNROUTED: Final = "unrouted"
# What the worker adds to the headers.
_ADDED: Final = (*REASON, *(ORIGINAL + name for name in ("exchange", "routing-key", "user-id", "expiration")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Why it died, as far as it says so (empty: not known), and the exchange and routing key it was published to."""

    inbound: Inbound
    code: str
    detail: str
    failed_at: str
    failed_by: str
    exchange: str
    routing_key: str


def read_letter(inbound: Inbound, queue: str) -> Letter:
    """Return what a message from a queue of dead letters, or from `unrouted`, says of itself."""
    if queue == UNROUTED_QUEUE:
        key = inbound.routing_key
        detail = f"no queue was bound to {inbound.exchange} for {printable(key)}"
        return _letter(inbound, {"error": UNROUTED, "error-detail": detail}, inbound.exchange, key)
    headers = inbound.message.headers
    if (death := _death(inbound, queue)) is None:
        return _letter(inbound, headers, headers.get("original-exchange"), headers.get("original-routing-key"))
    at, keys = death.get("time"), death.get("routing-keys")
    reason = {
        "error": death.get("reason"),
        "error-detail": "RabbitMQ set it aside, no worker",
        "failed-at": rfc3339(at) if isinstance(at, datetime) else "",
        "failed-by": "RabbitMQ",
    }
    return _letter(inbound, reason, death.get("exchange"), keys[0] if isinstance(keys, list) and keys else "")


def redriven(letter: Letter, queue: str, *, looked_at: bool) -> Outgoing:
    """Return the message as it was, for where it went. Raises CannotRedrive, which says why it must stay.

    What the broker acts on (expiration, CC, x-…) is left out. `looked_at`: a person chose this very letter.
    """
    inbound, headers = letter.inbound, letter.inbound.message.headers
    by_broker, is_unrouted = _death(inbound, queue) is not None, queue == UNROUTED_QUEUE
    by_worker = not (by_broker or is_unrouted)
    if inbound.unreadable is not None or (by_worker and "original-properties" in headers):
        raise CannotRedrive("its properties cannot be read")
    fed = [work for work in WORK_QUEUES if is_unrouted or dead_letter_queue(work.name) == queue]
    # Nothing else is believed: on RabbitMQ 3 a sender can write `x-death` itself.
    if not any(_takes(work, letter.exchange, letter.routing_key) for work in fed):
        raise CannotRedrive(
            f"no queue is for {printable(letter.routing_key)!r} from {printable(letter.exchange) or 'nowhere'!r}"
        )
    if by_broker and not looked_at and letter.exchange == COMMANDS and _feeds(PARTNERS, fed):
        raise CannotRedrive("it says it is the gateway's, which a partner can forge: look at it, then use --id")
    kept = encodable(_as_sent(headers) if by_worker else _harmless(headers))
    if "original-headers" in kept:
        raise CannotRedrive("its headers were too large to keep")
    user_id = headers.get("original-user-id") if by_worker else inbound.message.user_id
    message = replace(inbound.message, headers=kept, user_id=user_id if isinstance(user_id, str) else None)
    return Outgoing(exchange=letter.exchange, routing_key=letter.routing_key, message=message)


def _letter(inbound: Inbound, reason: Mapping[str, object], exchange: object, routing_key: object) -> Letter:
    code, detail, failed_at, failed_by = (_text(reason.get(name)) for name in REASON)
    return Letter(
        inbound=inbound,
        code=code,
        detail=detail,
        failed_at=failed_at,
        failed_by=failed_by,
        exchange=_text(exchange),
        routing_key=_text(routing_key),
    )


def _death(inbound: Inbound, queue: str) -> Mapping[str, object] | None:
    """Return the broker's own record, None where a worker set it aside: that one renames what is called `x-…`."""
    deaths = inbound.message.headers.get("x-death")
    if queue == UNROUTED_QUEUE or not isinstance(deaths, list):
        return None
    records = [death for death in deaths if isinstance(death, Mapping)]
    return next((death for death in records if dead_letter_queue(_text(death.get("queue"))) == queue), {})


def _takes(queue: Queue, exchange: str, routing_key: str) -> bool:
    """Whether a binding of the queue matches. Ours are `#`, or words and then `.#`."""
    return any(
        source == exchange and f"{routing_key}.".startswith(pattern.removesuffix("#"))
        for source, pattern in queue.bindings
    ) and routing_key == printable(routing_key)


def _feeds(exchange: str, queues: list[Queue]) -> bool:
    return any(exchange == source for queue in queues for source, _ in queue.bindings)


def _as_sent(headers: Mapping[str, object]) -> dict[str, object]:
    """Without the worker's additions; the sender's own headers under names of ours get them back."""
    return _harmless(
        {
            name.removeprefix(ORIGINAL) if name.removeprefix(ORIGINAL).lower() in REASON else name: value
            for name, value in headers.items()
            if name not in _ADDED
        }
    )


def _harmless(headers: Mapping[str, object]) -> dict[str, object]:
    def is_the_brokers(name: str) -> bool:
        plain = name.lower().removeprefix(ORIGINAL)
        return plain in BROKER_READS or plain.startswith(BROKER_PREFIX)

    return {name: value for name, value in headers.items() if not is_the_brokers(name)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

"""Events of the payment provider: proved to be its own, and cut down to ids before they become a command.

What an event says is never believed further than "look at this again": the session worker reads the state where it
is kept. So all else is left behind here, personal data above all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, assert_never
from uuid import UUID, uuid5

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gateway.auth import Caller, Scope
from gateway.incoming import Headers, malformed, parse_body, trace_headers
from gateway.problems import Kind, Problem
from gateway.publishing import CommandPublisher
from shared.commands import ProviderEvent
from shared.fields import Identifier
from shared.ids import NAMESPACE
from shared.settings import PaymentProvider

# An event holds its whole object: a checkout with all its lines is tens of KiB.
MAX_EVENT_BYTES = 256 * 1024
# The SDK's own default. An older signature may be a recording; Stripe signs every repetition anew.
TOLERANCE_S: Final = 300

# What Stripe's ids, types and our own references are made of; no address or name that anybody has gets through.
_ID = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_OF_OBJECT: Final = ("id", "object", "client_reference_id", "payment_intent")
_OF_METADATA: Final = ("reference", "sessionId")

EventReader = Callable[[bytes, Headers], ProviderEvent]


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Whose events are taken. `read` makes a command of a body and its headers, or raises the 400."""

    provider: PaymentProvider
    read: EventReader | None = None


def webhooks_of(provider: PaymentProvider, stripe_secret: str | None) -> Webhooks:
    """Return the webhooks of this provider; Stripe's need the endpoint's signing secret and the SDK."""
    match provider:
        case PaymentProvider.NONE:
            return Webhooks(provider)
        case PaymentProvider.SANDBOX:
            return Webhooks(provider, _read_sandbox_event)
        case PaymentProvider.STRIPE:
            assert stripe_secret
            return Webhooks(provider, _stripe_reader(stripe_secret))
    assert_never(provider)


async def publish_event(commands: CommandPublisher, event: ProviderEvent, headers: Headers) -> None:
    """Return once the broker has the event; a repetition is the same message. Raises the 503 otherwise."""
    provider = Caller(f"provider:{event.provider}", frozenset({Scope.OPERATOR}))
    await commands.publish(event, message_id_of(event), provider, trace=trace_headers(headers))


def message_id_of(event: ProviderEvent) -> UUID:
    """Return the message id that this event of the provider always stands for."""
    return uuid5(NAMESPACE, f"{event.provider} event {event.event_id}")


class SandboxEvent(BaseModel):
    """What the sandbox's pay page says; anybody may say it, since no money moves. For tests: send it yourself."""

    model_config = ConfigDict(strict=True, alias_generator=to_camel)

    id: Identifier
    type: Literal["link.paid", "link.declined"]
    link_id: Annotated[Identifier, Field(max_length=64)]


def sandbox_event(event: SandboxEvent) -> ProviderEvent:
    """Return the command of a sandbox's event."""
    content = event.model_dump(by_alias=True)
    return ProviderEvent(provider=PaymentProvider.SANDBOX, event_id=event.id, event=content)


def _read_sandbox_event(body: bytes, _: Headers) -> ProviderEvent:
    return sandbox_event(parse_body(body, SandboxEvent))


def _stripe_reader(secret: str) -> EventReader:
    from stripe import SignatureVerificationError, WebhookSignature  # noqa: PLC0415 - an optional extra

    def read(body: bytes, headers: Headers) -> ProviderEvent:
        signature = headers.get(b"stripe-signature")
        if signature is None:
            raise Problem(Kind.BAD_SIGNATURE, "Send the header Stripe-Signature.")
        try:
            WebhookSignature.verify_header(body, signature.decode("ascii"), secret, TOLERANCE_S)
        # The SDK takes it for granted that the body is UTF-8.
        except (SignatureVerificationError, UnicodeDecodeError) as error:
            detail = f"The signature is not that of this body and our secret, or is older than {TOLERANCE_S} s."
            raise Problem(Kind.BAD_SIGNATURE, detail) from error
        return _stripe_event(body)

    return read


def _stripe_event(body: bytes) -> ProviderEvent:
    try:
        event = _trimmed(_mapping(orjson.loads(body)))
    except orjson.JSONDecodeError as error:
        raise malformed(str(error)) from error
    if "id" not in event:
        errors = [{"pointer": "/id", "detail": "must be the id of an event"}]
        raise Problem(Kind.INVALID_BODY, "/id: must be the id of an event", errors=errors)
    return ProviderEvent(provider=PaymentProvider.STRIPE, event_id=event["id"], event=event)


def _trimmed(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids in an event, where it has them: its own and its object's."""
    found = _mapping(_mapping(event.get("data")).get("object"))
    payment = found.get("payment_intent")
    # Stripe gives a related object as its id, or in whole where the account's settings say so.
    kept: dict[str, Any] = _ids({**found, "payment_intent": _mapping(payment).get("id", payment)}, _OF_OBJECT)
    if metadata := _ids(_mapping(found.get("metadata")), _OF_METADATA):
        kept["metadata"] = metadata
    return {**_ids(event, ("id", "type")), "data": {"object": kept}}


def _ids(content: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name in names if isinstance(value := content.get(name), str) and _ID.fullmatch(value)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

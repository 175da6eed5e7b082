"""What Stripe's objects mean to us, pure: amounts, the states of sessions and refunds, and what an event is about.

Stripe's rules are those of https://docs.stripe.com/api and /currencies. ValueError (pydantic's is one) is an object
that cannot be read.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from session_worker.payments.money import Money, money
from session_worker.payments.provider import Declined, Link, LinkState, Notice, Refund, RefundState
from shared.pricing import MAX_COST

# The places of amounts where they are not two. ISK and UGX have none in ISO 4217 but two here, MGA the other way round.
# https://docs.stripe.com/currencies#zero-decimal, #special-cases, #three-decimal
_PLACES: Final = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"), 0
    ),
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
}


class _Object(BaseModel):
    """What is read of an object; all else is left unread."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str


class Intent(_Object):
    """The payment of a session."""

    status: str


class CheckoutSession(_Object):
    """A Checkout Session with its `payment_intent` expanded."""

    url: str | None
    status: str
    payment_status: str
    payment_intent: Intent | None
    amount_total: int
    currency: str
    expires_at: int


class RefundObject(_Object):
    """A Refund."""

    status: str
    failure_reason: str | None = None


class Listed(_Object):
    """One of a list of sessions, or of refunds."""

    client_reference_id: str | None = None
    metadata: dict[str, str] | None = None

    def bears(self, reference: UUID) -> bool:
        """Whether it was made under this reference of ours."""
        return str(reference) in (self.client_reference_id, (self.metadata or {}).get("reference"))


class Page(BaseModel):
    """A page of a list, newest first."""

    model_config = ConfigDict(frozen=True, strict=True)

    data: list[Listed]
    has_more: bool


def stripe_amount(amount: Money) -> int:
    """Return an amount in Stripe's units. Raises Declined for a fraction that Stripe does not take."""
    found = amount.amount.scaleb(_PLACES.get(amount.currency, 2))
    if found != found.to_integral_value():
        raise Declined("PROVIDER_DECLINED", f"Stripe takes no fractions of {amount.currency}")
    return int(found)


def money_of(amount: int, currency: str) -> Money:
    """Return an amount of Stripe's in our units. Raises ValueError for one that cannot be ours."""
    code = currency.upper()
    found = money(Decimal(amount).scaleb(-_PLACES.get(code, 2)), code)
    if found is None:
        raise ValueError("a fraction that the currency does not have")
    if found.amount > MAX_COST:
        raise ValueError("more than any session can cost")
    return found


def link_of(session: CheckoutSession) -> Link:
    """Return the link that a session is."""
    state, intent = _link_state(session), session.payment_intent
    return Link(
        link_id=session.id,
        url=session.url,
        state=state,
        expires_at=datetime.fromtimestamp(session.expires_at, UTC),
        payment_id=intent.id if intent and state in (LinkState.PROCESSING, LinkState.PAID) else None,
        paid=money_of(session.amount_total, session.currency) if state is LinkState.PAID else None,
    )


def _link_state(session: CheckoutSession) -> LinkState:
    """Money first: whatever the session is called, a payment that came, or is on its way after its end, counts."""
    intent = session.payment_intent.status if session.payment_intent else None
    if session.payment_status == "paid" or intent == "succeeded":
        return LinkState.PAID
    match session.status:
        case "open":
            return LinkState.OPEN
        case "complete":
            return LinkState.FAILED if intent in ("requires_payment_method", "canceled") else LinkState.PROCESSING
        case "expired":
            return LinkState.PROCESSING if intent == "processing" else LinkState.EXPIRED
        case unknown:
            raise ValueError(unknown)


def refund_of(refund: RefundObject) -> Refund:
    """Return our view of a refund; a reason is Stripe's `failure_reason` in capitals, CANCELED or FAILED."""
    match refund.status:
        case "pending" | "requires_action":
            return Refund(refund_id=refund.id, state=RefundState.PENDING)
        case "succeeded":
            return Refund(refund_id=refund.id, state=RefundState.SUCCEEDED)
        case "failed" | "canceled":
            reason = (refund.failure_reason or refund.status).upper()
            return Refund(refund_id=refund.id, state=RefundState.FAILED, reason=reason)
        case unknown:
            raise ValueError(unknown)


def notice_of(event: Mapping[str, Any]) -> Notice | None:
    """Return what an event is about, by its type; only ids are read of it."""
    match event:
        case {"type": str(kind), "data": {"object": {"id": str(object_id)} as found}}:
            payment_id, reference = _payment_id(found.get("payment_intent")), _reference(found)
        case _:
            return None
    if kind.startswith("checkout.session."):
        return Notice(link_id=object_id, payment_id=payment_id, reference=reference)
    if kind.startswith("payment_intent."):
        return Notice(payment_id=object_id, reference=reference)
    if kind.startswith("refund.") or kind == "charge.refund.updated":
        return Notice(refund_id=object_id, payment_id=payment_id, reference=reference)
    if kind == "charge.refunded" and (payment_id or reference):
        return Notice(payment_id=payment_id, reference=reference)
    return None


def _payment_id(intent: object) -> str | None:
    """A related object is its id, or given whole."""
    found = intent.get("id") if isinstance(intent, Mapping) else intent
    return found if isinstance(found, str) else None


def _reference(found: Mapping[Any, Any]) -> UUID | None:
    metadata = found.get("metadata")
    named = metadata.get("reference") if isinstance(metadata, Mapping) else None
    try:
        return UUID(named or found.get("client_reference_id"))
    except (AttributeError, TypeError, ValueError):
        return None  # another product's object, in the same account

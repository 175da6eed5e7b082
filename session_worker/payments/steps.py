"""What is to be done next at the provider for one payment, pure.

Each step is one object at the provider. Before a first call `begun` notes that it will be made, under a key that is
stored with it; a step whose call was begun before looks first at what became of that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

from session_worker.payments.payment import LinkStatus, Payment, PaymentLink, Refund, RefundStatus
from session_worker.payments.provider import LinkOrder, LinkRef, RefundOrder, RefundRef

# Providers count a link's shortest life by their own clock, from the moment that they make it.
_SHORTEST: Final = timedelta(minutes=30)
_GRACE: Final = timedelta(minutes=2)
_CLOCK_SKEW: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class CreateLink:
    """Make a link. `was_asked`: the provider may have it already."""

    order: LinkOrder
    ref: LinkRef
    was_asked: bool


@dataclass(frozen=True, slots=True)
class ExpireLink:
    """End a link, so that nobody can pay on it."""

    ref: LinkRef


@dataclass(frozen=True, slots=True)
class CheckLink:
    """Look at a link."""

    ref: LinkRef


@dataclass(frozen=True, slots=True)
class SendRefund:
    """Give money back. `was_asked`: the provider may have done it already."""

    order: RefundOrder
    ref: RefundRef
    was_asked: bool


@dataclass(frozen=True, slots=True)
class CheckRefund:
    """Look at a refund."""

    ref: RefundRef


Step = CreateLink | ExpireLink | CheckLink | SendRefund | CheckRefund


def next_step(payment: Payment, description: str, now: datetime) -> Step | None:
    """Return what is due: first what keeps a driver from paying twice, then links, then refunds."""
    return next(_steps(payment, description, now), None)


def _steps(payment: Payment, description: str, now: datetime) -> Iterator[Step]:
    active, creating = payment.active, payment.creating
    if active is not None and active.is_closing:
        yield ExpireLink(_link_ref(active, now))
    if creating is not None and active is None and _is_due(creating.check_at or now, now):
        yield CreateLink(
            _order(payment, creating, description), _link_ref(creating, now), creating.asked_at is not None
        )
    for link in payment.links:
        if link.status is not LinkStatus.CREATING and _is_due(link.check_at, now):
            yield CheckLink(_link_ref(link, now))
    for refund in payment.refunds:
        if _is_due(refund.check_at, now):
            yield _refund_step(payment, refund)


def _is_due(at: datetime | None, now: datetime) -> bool:
    return at is not None and at <= now


def _link_ref(link: PaymentLink, now: datetime) -> LinkRef:
    return LinkRef(reference=link.id, link_id=link.provider_link_id, asked_at=link.asked_at or now)


def _order(payment: Payment, link: PaymentLink, description: str) -> LinkOrder:
    return LinkOrder(
        reference=link.id,
        session_id=payment.session_id,
        key=link.key,
        money=payment.money(link.amount),
        expires_at=link.expires_at,
        description=description,
    )


def _refund_step(payment: Payment, refund: Refund) -> Step:
    payment_id = payment.link(refund.link_id).payment_id
    assert payment_id is not None, "only what was paid is refunded"
    ref = RefundRef(reference=refund.id, refund_id=refund.provider_refund_id, payment_id=payment_id)
    if refund.status is not RefundStatus.REQUESTED:
        return CheckRefund(ref)
    order = RefundOrder(
        reference=refund.id,
        session_id=payment.session_id,
        key=refund.key,
        payment_id=payment_id,
        money=payment.money(refund.amount),
    )
    return SendRefund(order, ref, refund.asked_at is not None)


def begun(payment: Payment, step: Step, now: datetime) -> Payment:
    """Return the payment as it must be stored before the step's call is made."""
    match step:
        case CreateLink(was_asked=False, order=order):
            return payment.with_link(_asked(payment.link(order.reference), now))
        case SendRefund(was_asked=False, order=order):
            return payment.with_refund(replace(payment.refund(order.reference), asked_at=now))
        case CreateLink() | SendRefund() | ExpireLink() | CheckLink() | CheckRefund():
            return payment
    assert_never(step)


def _asked(link: PaymentLink, now: datetime) -> PaymentLink:
    """The link's life begins when it is asked for; it may have waited for the provider for long."""
    return replace(link, asked_at=now, expires_at=now + timedelta(minutes=link.lifetime_minutes) + _GRACE)


def ends_too_soon(order: LinkOrder, now: datetime) -> bool:
    """Whether no provider would take this order any more."""
    return order.expires_at - now < _SHORTEST + _CLOCK_SKEW


def asked_anew(link: PaymentLink, now: datetime) -> PaymentLink:
    """Return a link, which the provider does not have after all, to be asked for under another key."""
    return replace(link, key=f"voltline-link-{link.id}-{int(now.timestamp())}", asked_at=None)

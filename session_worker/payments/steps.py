"""What is to be done next at the provider for one payment, pure.

Each step is one object at the provider. `begin` notes that a first call will be made, under a key that is stored with
it; a step whose call was begun before looks first at what became of that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from session_worker.payments.payment import LinkStatus, Payment, PaymentLink, Refund, RefundStatus, link_key
from session_worker.payments.provider import LinkOrder, LinkRef, RefundOrder, RefundRef

# Providers count a link's shortest life by their own clock, from the moment that they make it.
_GRACE: Final = timedelta(minutes=2)
# What the provider does not take now, such as a clock that differs, it does not take a moment later either.
ASK_ANEW_AFTER: Final = timedelta(seconds=10)
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


def begin(payment: Payment, description: str, now: datetime) -> tuple[Payment, Step] | None:
    """Return what is due, and the payment as it must be stored before the step's call is made.

    First comes what keeps a driver from paying twice, then links, then refunds. A repeated step has the same order.
    """
    step = next(_steps(payment, description, now), None)
    match step:
        case None:
            return None
        case CreateLink(was_asked=False, ref=ref):
            link = _asked(payment.link(ref.reference), now)
            return payment.with_link(link), replace(step, order=_order(payment, link, description))
        case SendRefund(was_asked=False, ref=refund_ref):
            return payment.with_refund(replace(payment.refund(refund_ref.reference), asked_at=now)), step
        case _:
            return payment, step


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


def _asked(link: PaymentLink, now: datetime) -> PaymentLink:
    """The link's life begins when it is asked for; it may have waited for the provider for long."""
    return replace(link, asked_at=now, expires_at=now + timedelta(minutes=link.lifetime_minutes) + _GRACE)


def ends_too_soon(order: LinkOrder, shortest: timedelta, now: datetime) -> bool:
    """Whether a provider whose links live so long at least would not take this order any more."""
    return order.expires_at - now < shortest + _CLOCK_SKEW


def asked_anew(link: PaymentLink, now: datetime) -> PaymentLink:
    """Return a link, which the provider does not have after all, to be asked for under another key."""
    return replace(
        link,
        key=link_key(link.id, link.order + 1),
        asked_at=None,
        provider_link_id=None,
        url=None,
        check_at=now + ASK_ANEW_AFTER,
    )

"""The rules of payments, pure: what a completed session owes, and what may be asked of its payment.

Nothing here waits for the provider: a rule only states what is wanted, and `steps` says what that takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid5

from session_worker.payments.money import money
from session_worker.payments.payment import Payment, PaymentLink, PaymentStatus, Refund, link_key
from session_worker.payments.provider import Notice
from session_worker.session import Outcome, Reason
from shared.commands import LONGEST_LINK_MINUTES, RecreatePaymentLink, RefundPayment

# As long as any provider here lets a link live.
LIFETIME_MINUTES: Final = LONGEST_LINK_MINUTES
# What a failed automatic refund waits for; a closed bank account does not open within minutes.
AUTOMATIC_REFUND_AGAIN_AFTER: Final = timedelta(days=1)
AUTOMATIC_REFUND_TRIES: Final = 10
SURPLUS: Final = "SURPLUS"
# A payment is read and written whole; nobody needs more links or refunds of one session.
MOST_LINKS: Final = 50
MOST_REFUNDS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who collects, and from what amount on: minor units by currency; one that is not named has no minimum."""

    provider: str
    minimum_minor: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a command about a payment; PARKED waits for the provider. `payment` is None where unchanged."""

    outcome: Outcome
    payment: Payment | None = None
    reason: Reason | None = None


def open_payment(
    session_id: UUID, *, cost: Decimal | None, currency: str | None, terms: Terms, now: datetime
) -> Payment | None:
    """Return what a completed session owes, with its first link to be made; None where the cost is not known."""
    if cost is None or currency is None:
        return None
    owed = money(cost, currency)
    assert owed is not None, "a cost is rounded to its currency"
    status = PaymentStatus.PENDING
    if owed.minor == 0:
        status = PaymentStatus.NOT_REQUIRED
    elif owed.minor < terms.minimum_minor.get(currency, 0):
        status = PaymentStatus.WAIVED
    payment = Payment(
        session_id=session_id,
        provider=terms.provider,
        status=status,
        amount=cost,
        currency=currency,
        created_at=now,
        updated_at=now,
    )
    if status is PaymentStatus.PENDING:
        return payment.with_link(_new_link(payment, LIFETIME_MINUTES, now)).restated(now)
    return payment


def _new_link(payment: Payment, lifetime_minutes: int, now: datetime) -> PaymentLink:
    number = len(payment.links) + 1
    link_id = uuid5(payment.session_id, f"payment link {number}")
    return PaymentLink(
        id=link_id,
        number=number,
        amount=payment.amount,
        key=link_key(link_id),
        expires_at=now + timedelta(minutes=lifetime_minutes),
        lifetime_minutes=lifetime_minutes,
        created_at=now,
    )


def recreate(payment: Payment | None, command: RecreatePaymentLink, cause: UUID, now: datetime) -> Ruling:
    """Want a new link. The one that can be paid now is ended at the provider before another is made."""
    if payment is None or payment.status in (PaymentStatus.NOT_REQUIRED, PaymentStatus.WAIVED):
        return _refused(Reason.NOTHING_TO_PAY)
    if payment.accepted is not None:
        return _refused(Reason.ALREADY_PAID)
    if payment.status is PaymentStatus.PROCESSING and not command.force:
        return _refused(Reason.PAYMENT_PROCESSING)
    creating = payment.creating
    if creating is not None:
        return _join(payment, creating, command, cause, now)
    if len(payment.links) >= MOST_LINKS:
        return _refused(Reason.TOO_MANY)
    link = _new_link(payment, command.expires_in_minutes or LIFETIME_MINUTES, now)
    wanted = payment.with_link(replace(link, command_ids=(cause,), is_forced=command.force))
    if payment.active is not None:
        wanted = wanted.with_link(replace(payment.active, is_closing=True))
    return Ruling(Outcome.PARKED, replace(wanted, failure_count=0).restated(now))


def _join(payment: Payment, creating: PaymentLink, command: RecreatePaymentLink, cause: UUID, now: datetime) -> Ruling:
    """A link is being made already; another would only replace what nobody has seen yet."""
    if len(creating.command_ids) >= MOST_LINKS:
        return _refused(Reason.TOO_MANY)
    joined = replace(
        creating,
        command_ids=(*creating.command_ids, cause),
        check_at=None,
        is_forced=creating.is_forced or command.force,
    )
    if creating.asked_at is None and command.expires_in_minutes is not None:
        joined = replace(joined, lifetime_minutes=command.expires_in_minutes)
    return Ruling(Outcome.PARKED, replace(payment.with_link(joined), failure_count=0).restated(now))


def refund(payment: Payment | None, command: RefundPayment, cause: UUID, now: datetime) -> Ruling:
    """Give money back, what was paid too much first; capped by what was paid less all refunds that have not failed."""
    paid = [] if payment is None else sorted((link for link in payment.links if link.is_paid), key=_surplus_first)
    if payment is None or not paid:
        return _refused(Reason.NOT_PAID)
    left = sum((payment.refundable(link) for link in paid), Decimal(0))
    wanted = left if command.amount is None else command.amount
    if left == 0:
        return _refused(Reason.ALREADY_REFUNDED)
    if len(payment.refunds) >= MOST_REFUNDS:
        return _refused(Reason.TOO_MANY)
    if wanted > left:
        return _refused(Reason.AMOUNT_TOO_LARGE)
    if money(wanted, payment.currency) is None:
        return _refused(Reason.INVALID_AMOUNT)
    for index, link in enumerate(paid):
        part = min(wanted, payment.refundable(link))
        if part:
            wanted -= part
            refund_id = uuid5(cause, f"refund {index}")
            asked = new_refund(refund_id, link, part, reason=command.reason, now=now)
            payment = payment.with_refund(replace(asked, command_id=cause))
    return Ruling(Outcome.PARKED, replace(payment, failure_count=0).restated(now))


def _surplus_first(link: PaymentLink) -> bool:
    return link.is_accepted


def new_refund(refund_id: UUID, link: PaymentLink, amount: Decimal, *, reason: str | None, now: datetime) -> Refund:
    """Return a refund that is to be asked for at `now`."""
    return Refund(
        id=refund_id,
        link_id=link.id,
        amount=amount,
        key=f"voltline-refund-{refund_id}",
        check_at=now,
        reason=reason,
        created_at=now,
    )


def give_back_surplus(payment: Payment, link: PaymentLink, *, at: datetime, now: datetime) -> Payment:
    """Want back for the driver what is left of a payment that settled nothing; gives up after some tries."""
    tries = sum(1 for each in payment.refunds if each.link_id == link.id and each.is_automatic)
    left = payment.refundable(link)
    if tries >= AUTOMATIC_REFUND_TRIES or not left:
        return payment
    refund_id = uuid5(link.id, f"surplus refund {tries + 1}")
    wanted = new_refund(refund_id, link, left, reason=SURPLUS, now=now)
    return payment.with_refund(replace(wanted, is_automatic=True, check_at=at))


def look_again(payment: Payment, notice: Notice, now: datetime) -> Payment:
    """The provider says that something happened to these: read them as soon as may be."""
    for link in payment.links:
        if link.id == notice.reference or _names(notice, link):
            payment = payment.with_link(replace(link, check_at=now))
    for refund_ in payment.refunds:
        if refund_.provider_refund_id is not None and _names_refund(notice, refund_):
            payment = payment.with_refund(replace(refund_, check_at=now))
    return replace(payment, failure_count=0).restated(now)


def _names(notice: Notice, link: PaymentLink) -> bool:
    return (notice.link_id is not None and notice.link_id == link.provider_link_id) or (
        notice.payment_id is not None and notice.payment_id == link.payment_id
    )


def _names_refund(notice: Notice, refund_: Refund) -> bool:
    return refund_.id == notice.reference or refund_.provider_refund_id == notice.refund_id


def _refused(reason: Reason) -> Ruling:
    return Ruling(Outcome.REFUSED, reason=reason)

"""What the provider's answers mean, pure: the payment afterwards, what to tell, and which commands have their end.

An answer is a state of one object. Only forward moves count, so that an answer may come twice, late or out of order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, assert_never
from uuid import UUID, uuid5

from session_worker.decide import Resolution
from session_worker.payments import provider
from session_worker.payments.payment import (
    LinkStatus,
    Payment,
    PaymentLink,
    PaymentStatus,
    Refund,
    RefundStatus,
    refund_json,
)
from session_worker.payments.provider import LinkState, RefundState
from session_worker.payments.rules import AUTOMATIC_REFUND_AGAIN_AFTER, give_back_surplus
from session_worker.payments.steps import asked_anew
from session_worker.session import Outcome, Reason
from shared.commands import RecreatePaymentLink
from shared.events import EventType

# A lost webhook is noticed this late.
CHECK_EVERY: Final = timedelta(hours=1)
# A provider ends its links with some delay.
CHECK_AFTER_EXPIRY: Final = timedelta(minutes=1)
# Orders of one link that the provider may refuse without a word; more would change nothing.
ORDERS_MOST: Final = 5
AMOUNT_TOO_SMALL: Final = "AMOUNT_TOO_SMALL"
PAYMENT_FAILED: Final = "PAYMENT_FAILED"
PROVIDER_DECLINED: Final = "PROVIDER_DECLINED"


@dataclass(frozen=True, slots=True)
class LinkFound:
    """The provider has this link, so."""

    reference: UUID
    link: provider.Link


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """The provider will not make this link."""

    reference: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class LinkMissing:
    """The provider does not have this link; `is_refused`: nor does it take the order under this key."""

    reference: UUID
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class RefundFound:
    """The provider has this refund, so."""

    reference: UUID
    refund: provider.Refund


@dataclass(frozen=True, slots=True)
class RefundMissing:
    """The provider does not know this refund any more."""

    reference: UUID


@dataclass(frozen=True, slots=True)
class RefundRefused:
    """The provider will not make this refund."""

    reference: UUID
    reason: str


Answer = LinkFound | LinkRefused | LinkMissing | RefundFound | RefundMissing | RefundRefused


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell. `cause` makes its event's id: the same thing learned twice is one event."""

    type: EventType
    cause: UUID
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learned:
    """The payment after an answer."""

    payment: Payment
    notes: tuple[Note, ...] = ()
    resolutions: tuple[Resolution, ...] = ()


def learn(payment: Payment, answer: Answer, begun_at: datetime, now: datetime) -> Learned:
    """Return what an answer makes of the payment, restated.

    The answer may be as old as the step, begun at `begun_at`: what a webhook pointed at since then is looked at again.
    """
    match answer:
        case LinkFound(reference, found):
            learned = _learn_link(payment, payment.link(reference), found, now)
        case LinkRefused(reference, reason):
            learned = _link_refused(payment, payment.link(reference), reason)
        case LinkMissing(reference, is_refused):
            learned = _link_missing(payment, payment.link(reference), is_refused, now)
        case RefundFound(reference, refund):
            learned = _learn_refund(payment, payment.refund(reference), refund, now)
        case RefundMissing(reference):
            learned = _refund_missing(payment, payment.refund(reference), now)
        case RefundRefused(reference, reason):
            learned = _refund_failed(payment, payment.refund(reference), reason, now)
        case _:
            assert_never(answer)
    known = _with_later_notices(payment, learned.payment, begun_at, now)
    return replace(learned, payment=replace(known, failure_count=0).restated(now))


def _with_later_notices(before: Payment, after: Payment, begun_at: datetime, now: datetime) -> Payment:
    for link in before.links:
        if _was_pointed_at(link, begun_at, now) and not after.link(link.id).is_paid:
            after = after.with_link(replace(after.link(link.id), check_at=link.check_at))
    for refund in before.refunds:
        if refund.status is not RefundStatus.REQUESTED and _was_pointed_at(refund, begun_at, now):
            after = after.with_refund(replace(after.refund(refund.id), check_at=refund.check_at))
    return after


def _was_pointed_at(subject: PaymentLink | Refund, begun_at: datetime, now: datetime) -> bool:
    return subject.check_at is not None and begun_at <= subject.check_at <= now


def _learn_link(payment: Payment, link: PaymentLink, found: provider.Link, now: datetime) -> Learned:
    if link.is_paid:
        return Learned(payment.with_link(replace(link, check_at=None)))
    known = replace(
        link,
        # Never another object than the one that the driver was told of.
        provider_link_id=link.provider_link_id or found.link_id,
        url=link.url or found.url,
        payment_id=found.payment_id or link.payment_id,
        expires_at=found.expires_at,
        check_at=None,
    )
    match found.state:
        case LinkState.OPEN:
            return _open(payment, known, now)
        case LinkState.PROCESSING:
            return _processing(payment, known, now)
        case LinkState.PAID:
            return _paid(payment, known, found, now)
        case LinkState.FAILED:
            return _failed(payment, known)
        case LinkState.EXPIRED:
            return _expired(payment, known, now)
    assert_never(found.state)


def _open(payment: Payment, link: PaymentLink, now: datetime) -> Learned:
    if link.status not in (LinkStatus.CREATING, LinkStatus.ACTIVE):
        # An old answer; a payment that is being processed is looked at again all the same.
        return Learned(payment.with_link(replace(link, check_at=now + CHECK_EVERY if link.is_processing else None)))
    after_expiry = max(link.expires_at, now) + CHECK_AFTER_EXPIRY
    active = replace(link, status=LinkStatus.ACTIVE, check_at=min(now + CHECK_EVERY, after_expiry), command_ids=())
    if link.status is LinkStatus.ACTIVE or link.is_closing:
        return Learned(payment.with_link(active), resolutions=_applied(link))
    note = Note(EventType.PAYMENT_LINK_CREATED, uuid5(link.id, "created"))
    return Learned(payment.with_link(active), (note,), _applied(link))


def _processing(payment: Payment, link: PaymentLink, now: datetime) -> Learned:
    """The driver has paid by a slow method: nobody can pay on this link any more, and another waits unless forced."""
    if link.status is LinkStatus.FAILED:
        return Learned(payment.with_link(link))
    completed = replace(link, status=LinkStatus.COMPLETED, is_closing=False, check_at=now + CHECK_EVERY, command_ids=())
    learned = Learned(payment.with_link(completed), resolutions=_applied(link))
    waiting = learned.payment.creating
    if waiting is None or waiting.is_forced:
        return learned
    return _drop(learned, waiting, Reason.PAYMENT_PROCESSING)


def _paid(payment: Payment, link: PaymentLink, found: provider.Link, now: datetime) -> Learned:
    """Take the payment where the debt is open, whichever link it came by; give it back where it is not."""
    is_accepted = payment.accepted is None
    amount = link.amount if found.paid is None else found.paid.amount
    paid = replace(
        link,
        status=LinkStatus.COMPLETED,
        paid_amount=amount,
        paid_at=now,
        is_accepted=is_accepted,
        is_closing=False,
        command_ids=(),
    )
    learned = Learned(payment.with_link(paid), resolutions=_applied(link))
    if not is_accepted:
        return replace(learned, payment=give_back_surplus(learned.payment, paid, at=now, now=now))
    learned = replace(learned, notes=(Note(EventType.PAYMENT_PAID, uuid5(link.id, "paid")),))
    return _close_others(learned)


def _close_others(learned: Learned) -> Learned:
    """The debt is settled: end the link that could still be paid, and the one that is being made."""
    active, creating = learned.payment.active, learned.payment.creating
    if active is not None:
        learned = replace(learned, payment=learned.payment.with_link(replace(active, is_closing=True)))
    if creating is None:
        return learned
    if creating.asked_at is None:
        return _drop(learned, creating, Reason.ALREADY_PAID)
    # The provider may have it: it is made, or found, only to be ended.
    closing = replace(creating, is_closing=True, command_ids=())
    return _turned_down(replace(learned, payment=learned.payment.with_link(closing)), creating, Reason.ALREADY_PAID)


def _drop(learned: Learned, link: PaymentLink, reason: Reason) -> Learned:
    """Forget a link that was not asked for yet, and tell who waits for it."""
    if link.asked_at is not None:
        return learned
    dropped = replace(link, status=LinkStatus.SUPERSEDED, reason=str(reason), check_at=None, command_ids=())
    return _turned_down(replace(learned, payment=learned.payment.with_link(dropped)), link, reason)


def _turned_down(learned: Learned, link: PaymentLink, reason: Reason) -> Learned:
    """Say no to who waits for a new link, in an event as every refusal."""
    notes = tuple(
        Note(
            EventType.COMMAND_REJECTED,
            command_id,
            {"command": RecreatePaymentLink.TYPE, "messageId": str(command_id), "reason": str(reason)},
        )
        for command_id in link.command_ids
    )
    return replace(learned, notes=learned.notes + notes, resolutions=(*learned.resolutions, *_refused(link, reason)))


def _failed(payment: Payment, link: PaymentLink) -> Learned:
    if link.status not in (LinkStatus.CREATING, LinkStatus.ACTIVE, LinkStatus.COMPLETED):
        return Learned(payment.with_link(link))
    return _link_failed(payment, link, PAYMENT_FAILED)


def _expired(payment: Payment, link: PaymentLink, now: datetime) -> Learned:
    if link.status is LinkStatus.CREATING and not link.is_closing and link.order < ORDERS_MOST:
        # It ran out before anybody heard of it. A provider with one link for a reference has no other, ever.
        return Learned(payment.with_link(asked_anew(link, now)))
    if link.status not in (LinkStatus.CREATING, LinkStatus.ACTIVE, LinkStatus.COMPLETED):
        return Learned(payment.with_link(link))
    status = LinkStatus.SUPERSEDED if link.is_closing else LinkStatus.EXPIRED
    ended = replace(link, status=status, is_closing=False, command_ids=())
    return _turned_down(Learned(payment.with_link(ended)), link, Reason.LINK_FAILED)


def _link_refused(payment: Payment, link: PaymentLink, reason: str) -> Learned:
    if link.status is not LinkStatus.CREATING:
        return Learned(payment)
    if reason == AMOUNT_TOO_SMALL:
        waived = replace(link, status=LinkStatus.SUPERSEDED, reason=reason, check_at=None, command_ids=())
        payment = replace(payment, status=PaymentStatus.WAIVED).with_link(waived)
        return _turned_down(Learned(payment), link, Reason.NOTHING_TO_PAY)
    return _link_failed(payment, link, reason)


def _link_failed(payment: Payment, link: PaymentLink, reason: str) -> Learned:
    failed = replace(link, status=LinkStatus.FAILED, reason=reason, is_closing=False, check_at=None, command_ids=())
    learned = Learned(payment.with_link(failed))
    if payment.accepted is None and not link.is_closing:
        note = Note(EventType.PAYMENT_FAILED, uuid5(link.id, "failed"), {"failureReason": reason})
        learned = replace(learned, notes=(note,))
    return _turned_down(learned, link, Reason.LINK_FAILED)


def _link_missing(payment: Payment, link: PaymentLink, is_refused: bool, now: datetime) -> Learned:
    if link.status is LinkStatus.CREATING and not link.is_closing:
        if is_refused and link.order >= ORDERS_MOST:
            return _link_failed(payment, link, PROVIDER_DECLINED)
        return Learned(payment.with_link(asked_anew(link, now)))
    if link.is_paid:
        return Learned(payment.with_link(replace(link, check_at=None)))
    # It was there once: nobody can pay on what the provider does not know any more.
    return _expired(payment, replace(link, check_at=None), now)


def _learn_refund(payment: Payment, refund: Refund, found: provider.Refund, now: datetime) -> Learned:
    known = replace(refund, provider_refund_id=found.refund_id, check_at=None)
    if refund.status is RefundStatus.FAILED:
        return Learned(payment.with_refund(known))
    match found.state:
        case RefundState.PENDING:
            status = RefundStatus.PENDING if refund.status is RefundStatus.REQUESTED else refund.status
            pending = replace(known, status=status, check_at=now + CHECK_EVERY)
            return Learned(payment.with_refund(pending), resolutions=_applied(refund))
        case RefundState.SUCCEEDED:
            return _refunded(payment, known)
        case RefundState.FAILED:
            return _refund_failed(payment, known, found.reason or PROVIDER_DECLINED, now)
    assert_never(found.state)


def _refund_missing(payment: Payment, refund: Refund, now: datetime) -> Learned:
    """What the provider once had it has again, or an operator must look: a pending refund is asked after every hour."""
    check_at = now + CHECK_EVERY if refund.status is RefundStatus.PENDING else None
    return Learned(payment.with_refund(replace(refund, check_at=check_at)))


def _refunded(payment: Payment, refund: Refund) -> Learned:
    if refund.status is RefundStatus.SUCCEEDED:
        return Learned(payment.with_refund(refund))
    done = replace(refund, status=RefundStatus.SUCCEEDED)
    changed = payment.with_refund(done)
    note = Note(EventType.PAYMENT_REFUNDED, uuid5(refund.id, "refunded"), {"refund": refund_json(changed, done)})
    return Learned(changed, (note,), _applied(refund))


def _refund_failed(payment: Payment, refund: Refund, reason: str, now: datetime) -> Learned:
    if refund.status is RefundStatus.FAILED:
        return Learned(payment)
    failed = replace(refund, status=RefundStatus.FAILED, failure_reason=reason[:64], check_at=None)
    changed = payment.with_refund(failed)
    note = Note(EventType.PAYMENT_REFUND_FAILED, uuid5(refund.id, "failed"), {"refund": refund_json(changed, failed)})
    if refund.is_automatic:
        link = changed.link(refund.link_id)
        changed = give_back_surplus(changed, link, at=now + AUTOMATIC_REFUND_AGAIN_AFTER, now=now)
    return Learned(changed, (note,), _refused(refund, Reason.REFUND_FAILED))


def _waiting(subject: PaymentLink | Refund) -> tuple[UUID, ...]:
    if isinstance(subject, PaymentLink):
        return subject.command_ids
    is_waiting = subject.command_id is not None and subject.status is RefundStatus.REQUESTED
    return (subject.command_id,) if is_waiting and subject.command_id is not None else ()


def _applied(subject: PaymentLink | Refund) -> tuple[Resolution, ...]:
    return tuple(Resolution(command_id, Outcome.APPLIED) for command_id in _waiting(subject))


def _refused(subject: PaymentLink | Refund, reason: Reason) -> tuple[Resolution, ...]:
    return tuple(Resolution(command_id, Outcome.REFUSED, reason) for command_id in _waiting(subject))

"""What a session owes and what was done about it: one payment, its links and refunds. Pure values.

The payment's status is a summary: it follows from its links and refunds, and `restated` alone writes it.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self, TypeVar
from uuid import UUID

from session_worker.payments.money import Money, money
from shared.resources import money_text, rfc3339


class PaymentStatus(StrEnum):
    """Where the debt stands."""

    NOT_REQUIRED = "NOT_REQUIRED"  # the session cost nothing
    WAIVED = "WAIVED"  # less than the provider can collect
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"  # paid by a slow method, the money is on its way
    PAID = "PAID"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"
    FAILED = "FAILED"  # no link can be had, or the driver's payment came to nothing; a new link may be asked for


class LinkStatus(StrEnum):
    """Where a link stands. COMPLETED without `paid_at` is a payment that is still being processed."""

    CREATING = "CREATING"
    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    EXPIRED = "EXPIRED"
    SUPERSEDED = "SUPERSEDED"
    FAILED = "FAILED"


class RefundStatus(StrEnum):
    """Where a refund stands. Only FAILED is final: a refund may fail days after it succeeded."""

    REQUESTED = "REQUESTED"
    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentLink:
    """One row of `payment_links`: one object at the provider.

    `asked_at` is when it was first asked for under its key: from then on the provider may have it, whatever we heard.
    `is_closing` says that it must be ended there. `check_at` is when to look at it again. `command_ids` wait for it.
    """

    id: UUID
    number: int
    status: LinkStatus = LinkStatus.CREATING
    amount: Decimal
    key: str
    expires_at: datetime
    lifetime_minutes: int
    url: str | None = None
    provider_link_id: str | None = None
    payment_id: str | None = None
    is_accepted: bool = False
    is_closing: bool = False
    is_forced: bool = False
    paid_amount: Decimal | None = None
    paid_at: datetime | None = None
    asked_at: datetime | None = None
    check_at: datetime | None = None
    command_ids: tuple[UUID, ...] = ()
    reason: str | None = None
    created_at: datetime

    @property
    def order(self) -> int:
        """Which order of this link its key stands for, from 1."""
        return int(self.key.rpartition("-")[2])

    @property
    def is_processing(self) -> bool:
        return self.status is LinkStatus.COMPLETED and self.paid_at is None

    @property
    def is_paid(self) -> bool:
        return self.paid_at is not None


def link_key(link_id: UUID, order: int = 1) -> str:
    """Return the idempotency key of a link's first, second, … order."""
    return f"voltline-link-{link_id}-{order}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One row of `payment_refunds`: (a part of) a link's payment, given back. REQUESTED ones wait until `check_at`."""

    id: UUID
    link_id: UUID
    status: RefundStatus = RefundStatus.REQUESTED
    amount: Decimal
    key: str
    is_automatic: bool = False
    provider_refund_id: str | None = None
    asked_at: datetime | None = None
    check_at: datetime | None
    command_id: UUID | None = None
    reason: str | None = None
    failure_reason: str | None = None
    created_at: datetime


Item = TypeVar("Item", PaymentLink, Refund)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One row of `payments` with its links and refunds, oldest first. Amounts are in the currency's whole units."""

    session_id: UUID
    provider: str
    status: PaymentStatus
    amount: Decimal
    currency: str
    paid_amount: Decimal = Decimal(0)
    refunded_amount: Decimal = Decimal(0)
    links: tuple[PaymentLink, ...] = ()
    refunds: tuple[Refund, ...] = ()
    failure_count: int = 0
    due_at: datetime | None = None
    created_at: datetime
    updated_at: datetime

    def link(self, link_id: UUID) -> PaymentLink:
        return next(link for link in self.links if link.id == link_id)

    def refund(self, refund_id: UUID) -> Refund:
        return next(refund for refund in self.refunds if refund.id == refund_id)

    def money(self, amount: Decimal) -> Money:
        """Return an amount of this payment's currency, which all its amounts are whole numbers of."""
        counted = money(amount, self.currency)
        assert counted is not None
        return counted

    @property
    def accepted(self) -> PaymentLink | None:
        """The link whose payment settled the debt."""
        return next((link for link in self.links if link.is_accepted), None)

    @property
    def active(self) -> PaymentLink | None:
        return next((link for link in self.links if link.status is LinkStatus.ACTIVE), None)

    @property
    def creating(self) -> PaymentLink | None:
        return next((link for link in self.links if link.status is LinkStatus.CREATING), None)

    def refundable(self, link: PaymentLink) -> Decimal:
        """Return what is left of a link's payment after all refunds that have not failed."""
        taken = (r.amount for r in self.refunds if r.link_id == link.id and r.status is not RefundStatus.FAILED)
        return (link.paid_amount or Decimal(0)) - sum(taken, Decimal(0))

    def with_link(self, link: PaymentLink) -> Self:
        """Return the payment with this link in the place of the one with its id, or added."""
        return replace(self, links=_put(self.links, link))

    def with_refund(self, refund: Refund) -> Self:
        return replace(self, refunds=_put(self.refunds, refund))

    def restated(self, now: datetime) -> Self:
        """Return the payment with its sums, its status and its next time, as its links and refunds have them."""
        refunded = sum((r.amount for r in self.refunds if r.status is RefundStatus.SUCCEEDED), Decimal(0))
        paid = sum((link.paid_amount or Decimal(0) for link in self.links), Decimal(0))
        return replace(
            self,
            status=_status(self),
            paid_amount=paid,
            refunded_amount=refunded,
            due_at=_due_at(self, now),
            updated_at=now,
        )


def _put(items: tuple[Item, ...], item: Item) -> tuple[Item, ...]:
    if all(each.id != item.id for each in items):
        return items + (item,)  # noqa: RUF005 - mypy cannot unpack it
    return tuple(item if each.id == item.id else each for each in items)


def _status(payment: Payment) -> PaymentStatus:
    accepted = payment.accepted
    if accepted is not None:
        return _status_after_payment(payment, accepted)
    if payment.status in (PaymentStatus.NOT_REQUIRED, PaymentStatus.WAIVED):
        return payment.status
    if any(link.is_processing for link in payment.links):
        return PaymentStatus.PROCESSING
    # A link that was given up before it was asked for changes nothing.
    last = next(link for link in reversed(payment.links) if link.asked_at or link.status is not LinkStatus.SUPERSEDED)
    return PaymentStatus.FAILED if last.status is LinkStatus.FAILED else PaymentStatus.PENDING


def _status_after_payment(payment: Payment, accepted: PaymentLink) -> PaymentStatus:
    given_back = [r for r in payment.refunds if r.link_id == accepted.id and r.status is RefundStatus.SUCCEEDED]
    refunded = sum((refund.amount for refund in given_back), Decimal(0))
    if not refunded:
        return PaymentStatus.PAID
    is_all = refunded >= (accepted.paid_amount or Decimal(0))
    return PaymentStatus.REFUNDED if is_all else PaymentStatus.PARTIALLY_REFUNDED


def _due_at(payment: Payment, now: datetime) -> datetime | None:
    times = [link.check_at or (now if link.status is LinkStatus.CREATING else None) for link in payment.links]
    times += [refund.check_at for refund in payment.refunds]
    if payment.active is not None and payment.active.is_closing:
        times.append(now)
    return min((at for at in times if at is not None), default=None)


def payment_json(payment: Payment) -> dict[str, Any]:
    """Return what the outside sees: the `payment` of the session JSON."""
    return {
        "status": str(payment.status),
        "amount": money_text(payment.amount),
        "currency": payment.currency,
        "paidAmount": money_text(payment.paid_amount),
        "refundedAmount": money_text(payment.refunded_amount),
        "provider": payment.provider,
        "link": _link_json(payment),
    }


def _link_json(payment: Payment) -> dict[str, Any] | None:
    """The current link: the one that was paid, else the newest that the driver could have seen."""
    seen = (link for link in payment.links if link.url is not None or link.status is LinkStatus.FAILED)
    link = payment.accepted or max(seen, key=lambda link: link.number, default=None)
    if link is None:
        return None
    return {
        "linkId": str(link.id),
        "url": link.url,
        "amount": money_text(link.amount),
        "currency": payment.currency,
        "status": _public_status(payment, link),
        "expiresAt": rfc3339(link.expires_at),
    }


def _public_status(payment: Payment, link: PaymentLink) -> str:
    match link.status:
        case LinkStatus.CREATING | LinkStatus.ACTIVE:
            return "PENDING"
        case LinkStatus.COMPLETED if not link.is_paid:
            return "PENDING"
        case LinkStatus.COMPLETED:
            return "REFUNDED" if payment.status is PaymentStatus.REFUNDED else "PAID"
        case LinkStatus.EXPIRED | LinkStatus.SUPERSEDED:
            return "EXPIRED"
        case LinkStatus.FAILED:
            return "FAILED"


def refund_json(payment: Payment, refund: Refund) -> dict[str, Any]:
    """Return what an event says of a refund."""
    return {
        "refundId": str(refund.id),
        "messageId": None if refund.command_id is None else str(refund.command_id),
        "amount": money_text(refund.amount),
        "currency": payment.currency,
        "status": str(refund.status),
        "isAutomatic": refund.is_automatic,
        "reason": refund.reason,
        "failureReason": refund.failure_reason,
    }

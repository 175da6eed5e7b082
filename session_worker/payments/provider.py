"""What a payment provider must do for us, and how it says no.

Each call names what it is about by an id of ours (`reference`) and carries the idempotency key that was stored before
it: repeated, it makes nothing twice. What the provider says of a link or refund is a state, never a change, so reading
it twice, or late, or out of order does no harm.

ProviderError
├── Retryable         it did not answer, or asks to come back later: whether it acted is not known
├── Declined          it will not do this, ever; `reason` is a stable code
├── InvalidState      the object is not in a state for this any more: read it again
├── NotFound          it knows no such object
└── Misconfigured     our key or settings are refused: only the operator can help, and nothing is lost meanwhile
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from session_worker.payments.money import Money
from shared.errors import VoltlineError


class ProviderError(VoltlineError):
    """The root of what a provider answers instead of a state."""


class Retryable(ProviderError):
    """No answer, or "later". `retry_after_s` is the provider's wish, where it has one."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Declined(ProviderError):
    """A final no. `reason` is a stable code: AMOUNT_TOO_SMALL, AMOUNT_TOO_LARGE, PROVIDER_DECLINED."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class InvalidState(ProviderError):
    """The object has moved on: expired, paid or refunded meanwhile."""


class NotFound(ProviderError):
    """There is no such object."""


class Misconfigured(ProviderError):
    """Our credentials or settings are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The provider's limits. Amounts are minor units; a currency that is not named has no known minimum."""

    minimum_minor: Mapping[str, int]
    maximum_minor: int
    shortest_lifetime: timedelta
    longest_lifetime: timedelta


class LinkState(StrEnum):
    """Where a link stands at the provider."""

    OPEN = "open"
    PROCESSING = "processing"  # the driver has paid by a slow method; the money may still fail to come
    PAID = "paid"
    FAILED = "failed"  # the driver's payment came to nothing; this link takes no other
    EXPIRED = "expired"


class RefundState(StrEnum):
    """Where a refund stands at the provider. It may fail days after it was said to have succeeded."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOrder:
    """A link to make. Every field is the same in every repetition under one key."""

    reference: UUID
    session_id: UUID
    key: str
    money: Money
    expires_at: datetime
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRef:
    """A link to look at or to expire: by the provider's id, or by ours where its answer was lost."""

    reference: UUID
    link_id: str | None
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as the provider has it now. `payment_id` is what a refund names; set once there is a payment."""

    link_id: str
    url: str | None
    state: LinkState
    expires_at: datetime
    payment_id: str | None = None
    paid: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """A refund to make, of (a part of) one payment."""

    reference: UUID
    session_id: UUID
    key: str
    payment_id: str
    money: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRef:
    """A refund to look at: by the provider's id, or by ours among the refunds of its payment."""

    reference: UUID
    refund_id: str | None
    payment_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund as the provider has it now. `reason` is a stable code where it failed."""

    refund_id: str
    state: RefundState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What a webhook is about: look at these again. Ids are the provider's; `reference` is ours where it names one."""

    link_id: str | None = None
    refund_id: str | None = None
    payment_id: str | None = None
    reference: UUID | None = None


class Provider(Protocol):
    """A payment provider. Every call ends within seconds and raises only what this module names."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def create_link(self, order: LinkOrder) -> Link:
        """Make a link, or return the one that this key made before."""

    async def expire_link(self, ref: LinkRef) -> Link:
        """End an open link: afterwards nobody can pay on it. Raises InvalidState where it is not open any more."""

    async def get_link(self, ref: LinkRef) -> Link:
        """Read a link. Raises NotFound."""

    async def refund(self, order: RefundOrder) -> Refund:
        """Give money back, or return the refund that this key made before."""

    async def get_refund(self, ref: RefundRef) -> Refund:
        """Read a refund. Raises NotFound."""

    async def parse_webhook(self, event: Mapping[str, Any]) -> Notice | None:
        """Return what a verified event is about; None for one that is about nothing of ours.

        The sandbox, whose events are the buttons of its page, takes note of what was pressed.
        """

    async def close(self) -> None:
        """Close the connections; nothing is called after it."""

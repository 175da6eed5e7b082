"""Both payment providers, each with its other side: the drivers who pay, the clock, and the books that prove it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker.payments.money import Money
from session_worker.payments.provider import (
    Link,
    LinkOrder,
    LinkRef,
    Notice,
    Provider,
    RefundOrder,
    RefundRef,
)
from session_worker.payments.sandbox import SandboxProvider
from session_worker.payments.stripe_provider import DEADLINE_S, StripeProvider
from shared.database import create_engine
from tests.stripe_stub import API_KEY, StripeStub

PAGE_BASE = "https://voltline.example"
RETURN_URL = "https://voltline.example/payment/return"


class Bank(Protocol):
    """A provider, and what happens on its other side."""

    @property
    def provider(self) -> Provider: ...

    def now(self) -> datetime:
        """The provider's time."""

    def pass_time(self, delta: timedelta) -> None: ...

    async def pay(self, link: Link) -> Notice | None:
        """The driver pays, as far as the link lets them; returns what the provider's webhook tells of it."""

    async def link_count(self) -> int: ...

    async def refund_count(self) -> int: ...

    async def refunded(self, payment_id: str) -> int:
        """What of a payment was given back, in minor units."""


class SandboxBank:
    """The sandbox on a database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._passed = timedelta()
        self.provider = SandboxProvider(engine, PAGE_BASE, now=self.now)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._passed

    def pass_time(self, delta: timedelta) -> None:
        self._passed += delta

    async def pay(self, link: Link) -> Notice | None:
        return await self.click("link.paid", link.link_id)

    async def click(self, kind: str, link_id: str) -> Notice | None:
        """What a button of the link's page sends."""
        return await self.provider.parse_webhook({"id": str(uuid4()), "type": kind, "linkId": link_id})

    async def link_count(self) -> int:
        return await self._scalar("SELECT count(*) FROM sandbox_links")

    async def refund_count(self) -> int:
        return await self._scalar("SELECT count(*) FROM sandbox_refunds")

    async def refunded(self, payment_id: str) -> int:
        return await self._scalar(
            """SELECT coalesce(sum("amountMinor"), 0) FROM sandbox_refunds WHERE 'pay_' || "linkId" = :payment""",
            payment=payment_id,
        )

    async def _scalar(self, statement: str, **parameters: Any) -> int:
        async with self._engine.connect() as tx:
            return int((await tx.execute(text(statement), parameters)).scalar_one())


class StripeBank:
    """Stripe's adapter on a stub of Stripe."""

    def __init__(self, stub: StripeStub, *, deadline_s: float = DEADLINE_S, **changes: Any) -> None:
        self.stub = stub
        self._passed = timedelta()
        stub.now = lambda: self.now().timestamp()
        settings = {"api_key": API_KEY, "api_base": stub.url, "return_url": RETURN_URL, **changes}
        self.provider = StripeProvider(deadline_s=deadline_s, **settings)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._passed

    def pass_time(self, delta: timedelta) -> None:
        self._passed += delta

    async def pay(self, link: Link) -> Notice | None:
        told = len(self.stub.events())
        if not self.stub.pay(link.link_id):
            return None
        return await self.provider.parse_webhook(self.stub.events()[told])

    async def link_count(self) -> int:
        return len(self.stub.sessions)

    async def refund_count(self) -> int:
        return len(self.stub.refunds)

    async def refunded(self, payment_id: str) -> int:
        return self.stub.refunded(payment_id)


@asynccontextmanager
async def sandbox_bank(database_url: str) -> AsyncIterator[SandboxBank]:
    """The sandbox on empty books."""
    engine = create_engine(database_url, name="sandbox_bank", pool_size=5)
    try:
        yield SandboxBank(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def stripe_bank(**changes: Any) -> AsyncIterator[StripeBank]:
    """A Stripe of its own; `changes` are the adapter's settings."""
    async with StripeStub() as stub:
        bank = StripeBank(stub, **changes)
        try:
            yield bank
        finally:
            await bank.provider.close()


def link_order(**changes: Any) -> LinkOrder:
    """An order that every provider takes: 12.34 EUR, for an hour."""
    reference = changes.pop("reference", None) or uuid4()
    defaults: dict[str, Any] = {
        "session_id": uuid4(),
        "key": f"voltline-link-{reference}",
        "money": Money(1234, "EUR"),
        # Providers count whole seconds.
        "expires_at": datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1),
        "description": "Charging session at CHARGER-001",
    }
    return LinkOrder(reference=reference, **(defaults | changes))


def link_ref(order: LinkOrder, link_id: str | None = None) -> LinkRef:
    """How the link of this order is looked for; without its id, as where its answer was lost."""
    return LinkRef(reference=order.reference, link_id=link_id, asked_at=datetime.now(UTC))


def refund_order(payment_id: str, **changes: Any) -> RefundOrder:
    """An order to give 5.00 EUR back."""
    reference = changes.pop("reference", None) or uuid4()
    defaults: dict[str, Any] = {
        "session_id": uuid4(),
        "key": f"voltline-refund-{reference}",
        "money": Money(500, "EUR"),
    }
    return RefundOrder(reference=reference, payment_id=payment_id, **(defaults | changes))


def refund_ref(order: RefundOrder, refund_id: str | None = None) -> RefundRef:
    """How the refund of this order is looked for."""
    return RefundRef(reference=order.reference, refund_id=refund_id, payment_id=order.payment_id)

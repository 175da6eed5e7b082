"""A payment provider in memory, with its money, that loses answers and is down when told so."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from session_worker.payments.money import Money
from session_worker.payments.provider import (
    Capabilities,
    Declined,
    InvalidState,
    Link,
    LinkOrder,
    LinkRef,
    LinkState,
    NotFound,
    Notice,
    Refund,
    RefundOrder,
    RefundRef,
    RefundState,
    Retryable,
)
from tests.builders import NOW

Answer = TypeVar("Answer")


@dataclass
class World:
    """The provider's side of the truth. `lose_answers` acts and then stays silent; `is_down` does neither."""

    links: dict[UUID, Link] = field(default_factory=dict)
    refunds: dict[UUID, tuple[str, Money, Refund]] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    is_down: bool = False
    lose_answers: bool = False
    refuses: str | None = None
    now: datetime = NOW
    created_count: int = 0

    name = "sandbox"
    capabilities = Capabilities(
        minimum_minor={"EUR": 50, "JPY": 50},
        maximum_minor=99_999_999,
        shortest_lifetime=timedelta(minutes=30),
        longest_lifetime=timedelta(hours=24),
    )

    async def create_link(self, order: LinkOrder) -> Link:
        self._answers()
        if self.refuses is not None:
            raise Declined(self.refuses)
        assert self.keys.setdefault(order.key, order) == order, "one key stands for one order"
        if not timedelta(minutes=30) <= order.expires_at - self.now <= timedelta(hours=24):
            raise InvalidState("it would end too soon, or too late")
        if order.reference not in self.links:
            self.created_count += 1
            link_id = f"link_{order.reference}"
            self.links[order.reference] = Link(
                link_id=link_id, url=f"https://pay.example/{link_id}", state=LinkState.OPEN, expires_at=order.expires_at
            )
            self._amounts[order.reference] = order.money
        return self._told(self.links[order.reference])

    async def expire_link(self, ref: LinkRef) -> Link:
        self._answers()
        link = self._link(ref)
        if link.state is not LinkState.OPEN:
            raise InvalidState(f"it is {link.state}")
        self.links[ref.reference] = replace(link, state=LinkState.EXPIRED)
        return self._told(self.links[ref.reference])

    async def get_link(self, ref: LinkRef) -> Link:
        self._answers()
        return self._told(self._link(ref))

    async def refund(self, order: RefundOrder) -> Refund:
        self._answers()
        if order.reference not in self.refunds:
            if order.money.minor > self.left(order.payment_id):
                raise InvalidState("more than is left")
            made = Refund(refund_id=f"refund_{order.reference}", state=RefundState.PENDING)
            self.refunds[order.reference] = (order.payment_id, order.money, made)
        return self._told(self.refunds[order.reference][2])

    async def get_refund(self, ref: RefundRef) -> Refund:
        self._answers()
        if ref.reference not in self.refunds:
            raise NotFound(str(ref.reference))
        return self._told(self.refunds[ref.reference][2])

    async def parse_webhook(self, event: Mapping[str, Any]) -> Notice | None:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""

    # What drivers and banks do.

    def pay(self, reference: UUID, *, is_slow: bool = False) -> bool:
        """Pay on a link, where it is still open."""
        link = self.links[reference]
        if link.state is not LinkState.OPEN:
            return False
        state = LinkState.PROCESSING if is_slow else LinkState.PAID
        self._set_link(reference, state)
        return True

    def settle(self, reference: UUID, *, succeeds: bool) -> None:
        """End a slow payment."""
        if self.links[reference].state is LinkState.PROCESSING:
            self._set_link(reference, LinkState.PAID if succeeds else LinkState.FAILED)

    def end_refund(self, reference: UUID, state: RefundState) -> None:
        payment_id, money, found = self.refunds[reference]
        if found.state is not RefundState.FAILED:
            self.refunds[reference] = (
                payment_id,
                money,
                replace(found, state=state, reason="EXPIRED_OR_CANCELED_CARD"),
            )
            self.notices.append(Notice(refund_id=found.refund_id, reference=reference))

    def left(self, payment_id: str) -> int:
        """What of a payment is not given back, in minor units."""
        paid = sum(self._amounts[r].minor for r, link in self.links.items() if link.payment_id == payment_id)
        return paid - sum(money.minor for of, money, r in self.refunds.values() if of == payment_id and _counts(r))

    def kept(self) -> int:
        """All that drivers paid and did not get back, in minor units; refunds under way count as given."""
        return sum(self.left(link.payment_id) for link in self.links.values() if link.payment_id is not None)

    def paid_links(self) -> list[UUID]:
        return [reference for reference, link in self.links.items() if link.state is LinkState.PAID]

    def _set_link(self, reference: UUID, state: LinkState) -> None:
        link = self.links[reference]
        paid = self._amounts[reference] if state is LinkState.PAID else None
        payment_id = f"pay_{reference}" if state is LinkState.PAID else None
        self.links[reference] = replace(link, state=state, payment_id=payment_id, paid=paid)
        self.notices.append(Notice(link_id=link.link_id, reference=reference))

    _amounts: dict[UUID, Money] = field(default_factory=dict)

    def _link(self, ref: LinkRef) -> Link:
        if ref.reference not in self.links:
            raise NotFound(str(ref.reference))
        return self.links[ref.reference]

    def _answers(self) -> None:
        if self.is_down:
            raise Retryable("down")

    def _told(self, answer: Answer) -> Answer:
        if self.lose_answers:
            raise Retryable("the answer was lost")
        return answer


def _counts(refund: Refund) -> bool:
    return refund.state is not RefundState.FAILED


def expire_old(world: World, now: datetime) -> None:
    """What providers do by themselves: links past their time take no payment."""
    for reference, link in world.links.items():
        if link.state is LinkState.OPEN and link.expires_at <= now:
            world.links[reference] = replace(link, state=LinkState.EXPIRED)

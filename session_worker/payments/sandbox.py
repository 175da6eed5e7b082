"""A payment provider without money, whose books are two tables here: for trying out, and for tests.

It keeps to Stripe's rules as far as it has the same things. Whoever has a link's page may pay or decline; refunds
succeed at once. SQLAlchemy's errors pass through: an outage of the database is the caller's own.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker.payments.minimums import MAXIMUM_MINOR, MINIMUM_MINOR
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
)
from shared.payments import LINK_DECLINED, LINK_PAID, PAY_PATH

# The column's width.
DESCRIPTION_MOST_CHARS: Final = 512
_PAYMENT: Final = "pay_"
_REFUND: Final = "re_"
_STATES: Final = {
    "open": LinkState.OPEN,
    "paid": LinkState.PAID,
    "declined": LinkState.FAILED,
    "expired": LinkState.EXPIRED,
}
_MOVES: Final = {LINK_PAID: "paid", LINK_DECLINED: "declined"}

_INSERT_LINK = text("""
    INSERT INTO sandbox_links
        (id, "idempotencyKey", reference, description, "amountMinor", currency, status, "expiresAt", "createdAt")
    VALUES (:id, :key, :id, :description, :amountMinor, :currency, 'open', :expiresAt, :now)
    ON CONFLICT DO NOTHING""")
_LINK_OF_KEY = text('SELECT * FROM sandbox_links WHERE "idempotencyKey" = :key')
_LINK = text("SELECT * FROM sandbox_links WHERE id = :id")
_LINK_LOCKED = text("SELECT * FROM sandbox_links WHERE id = :id FOR UPDATE")
_EXPIRE = text("""
    UPDATE sandbox_links SET status = 'expired'
    WHERE id = :id AND status = 'open' AND "expiresAt" > :now RETURNING *""")
_MOVE = text("""
    UPDATE sandbox_links SET status = CAST(:status AS text),
        "paidAt" = CASE WHEN CAST(:status AS text) = 'paid' THEN CAST(:now AS timestamptz) END
    WHERE id = :id AND status = 'open' AND "expiresAt" > :now""")
_INSERT_REFUND = text("""
    INSERT INTO sandbox_refunds (id, "idempotencyKey", reference, "linkId", "amountMinor", status, "createdAt")
    VALUES (:id, :key, :reference, :linkId, :amountMinor, 'succeeded', :now)
    ON CONFLICT DO NOTHING""")
_REFUND_OF_KEY = text('SELECT * FROM sandbox_refunds WHERE "idempotencyKey" = :key')
_REFUND_OF_PAYMENT = text('SELECT * FROM sandbox_refunds WHERE id = :id AND "linkId" = :link_id')
_REFUNDED = text("""
    SELECT coalesce(sum("amountMinor"), 0) FROM sandbox_refunds WHERE "linkId" = :link_id AND status <> 'failed'""")


class SandboxProvider:
    """`pay_url_base` is where the gateway shows the pages. Each call is one short transaction."""

    name: Final = "sandbox"
    capabilities: Final = Capabilities(
        minimum_minor=MINIMUM_MINOR,
        maximum_minor=MAXIMUM_MINOR,
        shortest_lifetime=timedelta(0),
        longest_lifetime=timedelta(hours=24),
    )

    def __init__(self, engine: AsyncEngine, pay_url_base: str, *, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._pay_url_base = pay_url_base.rstrip("/")
        self._now = now

    async def create_link(self, order: LinkOrder) -> Link:
        """Raises InvalidState besides: for a key of another order, and for an expiry that has passed."""
        wanted = _link_row(order)
        async with self._engine.begin() as tx:
            made = await _row(tx, _LINK_OF_KEY, key=order.key)
            if made is None:
                self._check(order)
                await tx.execute(_INSERT_LINK, {**wanted, "key": order.key, "now": self._now()})
                made = await _row(tx, _LINK_OF_KEY, key=order.key)
        if made is None or not _is_of(made, wanted):
            raise InvalidState("the key, or the reference, was used for another order")
        return self._link(made)

    async def expire_link(self, ref: LinkRef) -> Link:
        async with self._engine.begin() as tx:
            expired = await _row(tx, _EXPIRE, id=_link_id(ref), now=self._now())
            left = None if expired else await _row(tx, _LINK, id=_link_id(ref))
        if expired is not None:
            return self._link(expired)
        if left is None:
            raise NotFound(f"no link {_link_id(ref)}")
        raise InvalidState(f"the link is {self._link(left).state}")

    async def get_link(self, ref: LinkRef) -> Link:
        async with self._engine.connect() as tx:
            found = await _row(tx, _LINK, id=_link_id(ref))
        if found is None:
            raise NotFound(f"no link {_link_id(ref)}")
        return self._link(found)

    async def refund(self, order: RefundOrder) -> Refund:
        """Raises InvalidState for more than was paid and not refunded yet, and for a key of another order."""
        wanted = _refund_row(order)
        async with self._engine.begin() as tx:
            # Refunds of one link follow one another, so that together they are never more than was paid.
            link = await _row(tx, _LINK_LOCKED, id=wanted["linkId"])
            made = await _row(tx, _REFUND_OF_KEY, key=order.key)
            if made is None:
                _check_refund(order, link, await tx.scalar(_REFUNDED, {"link_id": wanted["linkId"]}))
                await tx.execute(_INSERT_REFUND, {**wanted, "key": order.key, "now": self._now()})
                made = await _row(tx, _REFUND_OF_KEY, key=order.key)
        if made is None or not _is_of(made, wanted):
            raise InvalidState("the key, or the reference, was used for another order")
        return _refund(made)

    async def get_refund(self, ref: RefundRef) -> Refund:
        refund_id, link_id = ref.refund_id or f"{_REFUND}{ref.reference}", ref.payment_id.removeprefix(_PAYMENT)
        async with self._engine.connect() as tx:
            found = await _row(tx, _REFUND_OF_PAYMENT, id=refund_id, link_id=link_id)
        if found is None:
            raise NotFound(f"no refund {refund_id} of {ref.payment_id}")
        return _refund(found)

    async def close(self) -> None:
        """Nothing to close: the engine is the caller's."""

    async def parse_webhook(self, event: Mapping[str, Any]) -> Notice | None:
        """Do what the page's button says, where the link is still open, and return what it was about."""
        match event:
            case {"type": str(kind), "linkId": str(named)} if kind in _MOVES:
                link_id = _uuid(named)
            case _:
                return None
        if link_id is None:
            return None
        async with self._engine.begin() as tx:
            await tx.execute(_MOVE, {"id": str(link_id), "status": _MOVES[kind], "now": self._now()})
            found = await _row(tx, _LINK, id=str(link_id))
        return None if found is None else Notice(link_id=str(link_id), reference=link_id)

    def _check(self, order: LinkOrder) -> None:
        if order.money.minor < MINIMUM_MINOR.get(order.money.currency, 1):
            raise Declined("AMOUNT_TOO_SMALL")
        if order.money.minor > MAXIMUM_MINOR:
            raise Declined("AMOUNT_TOO_LARGE")
        if not self._now() < order.expires_at:
            raise InvalidState("the expiry has passed")

    def _link(self, row: RowMapping) -> Link:
        is_over = row["status"] == "open" and row["expiresAt"] <= self._now()
        state = LinkState.EXPIRED if is_over else _STATES[row["status"]]
        return Link(
            link_id=row["id"],
            url=f"{self._pay_url_base}{PAY_PATH}/{row['id']}",
            state=state,
            expires_at=row["expiresAt"],
            payment_id=f"{_PAYMENT}{row['id']}" if state is LinkState.PAID else None,
            paid=Money(row["amountMinor"], row["currency"]) if state is LinkState.PAID else None,
        )


async def _row(tx: AsyncConnection, statement: TextClause, **parameters: Any) -> RowMapping | None:
    return (await tx.execute(statement, parameters)).mappings().one_or_none()


def _link_id(ref: LinkRef) -> str:
    """A link bears our own id, so that it can be looked for without its answer."""
    return ref.link_id or str(ref.reference)


def _uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def _link_row(order: LinkOrder) -> dict[str, Any]:
    """Return what a link is made of; the same for every repetition."""
    return {
        "id": str(order.reference),
        "description": order.description[:DESCRIPTION_MOST_CHARS],
        "amountMinor": order.money.minor,
        "currency": order.money.currency,
        "expiresAt": order.expires_at,
    }


def _refund_row(order: RefundOrder) -> dict[str, Any]:
    return {
        "id": f"{_REFUND}{order.reference}",
        "reference": str(order.reference),
        "linkId": order.payment_id.removeprefix(_PAYMENT),
        "amountMinor": order.money.minor,
    }


def _is_of(made: RowMapping, wanted: Mapping[str, Any]) -> bool:
    """Whether the row that bears the key was made for this order."""
    return all(made[column] == value for column, value in wanted.items())


def _check_refund(order: RefundOrder, link: RowMapping | None, refunded_minor: int) -> None:
    if link is None or not order.payment_id.startswith(_PAYMENT):
        raise NotFound(f"no payment {order.payment_id}")
    if order.money.minor <= 0 or order.money.currency != link["currency"]:
        raise Declined("PROVIDER_DECLINED", "not an amount of this payment")
    if link["status"] != "paid" or order.money.minor > link["amountMinor"] - refunded_minor:
        raise InvalidState(f"{order.payment_id} has not so much left")


def _refund(row: RowMapping) -> Refund:
    return Refund(refund_id=row["id"], state=RefundState(row["status"]), reason=None)

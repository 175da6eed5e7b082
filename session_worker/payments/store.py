"""What payments read and write: plain functions over an open transaction, under the lock of their session."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_worker.payments.payment import LinkStatus, Payment, PaymentLink, PaymentStatus, Refund, RefundStatus
from session_worker.payments.provider import Notice
from session_worker.payments.tables import payment_links, payment_refunds, payments
from shared.database import insert_rows

_PAYMENTS = text('SELECT * FROM payments WHERE "sessionId" = ANY(CAST(:ids AS uuid[]))')
_LINKS = text('SELECT * FROM payment_links WHERE "sessionId" = ANY(CAST(:ids AS uuid[])) ORDER BY "sessionId", number')
_REFUNDS = text("""
    SELECT * FROM payment_refunds WHERE "sessionId" = ANY(CAST(:ids AS uuid[])) ORDER BY "createdAt", id""")
_SUBJECT_LINK = text("""
    SELECT "sessionId" FROM payment_links WHERE id = CAST(:reference AS uuid)
        OR "providerLinkId" = CAST(:link_id AS text) OR "providerPaymentId" = CAST(:payment_id AS text) LIMIT 1""")
_SUBJECT_REFUND = text("""
    SELECT "sessionId" FROM payment_refunds WHERE id = CAST(:reference AS uuid)
        OR "providerRefundId" = CAST(:refund_id AS text) LIMIT 1""")
_CLAIM = text("""
    UPDATE payments SET "leasedUntil" = :until WHERE "sessionId" IN (
        SELECT "sessionId" FROM payments WHERE provider = :provider AND "dueAt" <= :now
            AND ("leasedUntil" IS NULL OR "leasedUntil" <= :now)
        ORDER BY "dueAt" LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING "sessionId" """)
_DUE_ELSEWHERE = text("""
    SELECT count(*) FROM payments WHERE provider <> :provider AND "dueAt" IS NOT NULL""")
_LEASE = text('UPDATE payments SET "leasedUntil" = :until WHERE "sessionId" = :id')


def _replace(table: Table) -> str:
    changed = (column.name for column in table.columns if not column.primary_key and column.name != "createdAt")
    key = table.primary_key.columns.keys()[0]
    return f'ON CONFLICT ("{key}") DO UPDATE SET ' + ", ".join(f'"{name}" = excluded."{name}"' for name in changed)


_REPLACE_PAYMENT: Final = _replace(payments)
_REPLACE_LINK: Final = _replace(payment_links)
_REPLACE_REFUND: Final = _replace(payment_refunds)


async def find_payments(tx: AsyncConnection, session_ids: Collection[UUID]) -> dict[UUID, Payment]:
    """Return the payments of these sessions, whole."""
    if not session_ids:
        return {}
    ids = {"ids": list(session_ids)}
    links: dict[UUID, list[PaymentLink]] = {}
    for row in (await tx.execute(_LINKS, ids)).mappings():
        links.setdefault(row["sessionId"], []).append(_link_of(row))
    refunds: dict[UUID, list[Refund]] = {}
    for row in (await tx.execute(_REFUNDS, ids)).mappings():
        refunds.setdefault(row["sessionId"], []).append(_refund_of(row))
    rows = (await tx.execute(_PAYMENTS, ids)).mappings()
    return {
        row["sessionId"]: _payment_of(row, links.get(row["sessionId"], []), refunds.get(row["sessionId"], []))
        for row in rows
    }


async def find_subject(tx: AsyncConnection, notice: Notice) -> UUID | None:
    """Return the session whose payment a provider's event is about."""
    named = {"reference": notice.reference, "link_id": notice.link_id, "payment_id": notice.payment_id}
    found: UUID | None = await tx.scalar(_SUBJECT_LINK, named)
    if found is None:
        found = await tx.scalar(_SUBJECT_REFUND, {"reference": notice.reference, "refund_id": notice.refund_id})
    return found


async def save_payments(tx: AsyncConnection, changed: Iterable[Payment]) -> None:
    """Write payments with all their links and refunds; what ended first, as it makes room for what is active."""
    changed = list(changed)
    if not changed:
        return
    await insert_rows(tx, payments, [_payment_row(payment) for payment in changed], _REPLACE_PAYMENT)
    links = [(payment, link) for payment in changed for link in payment.links]
    links.sort(key=lambda pair: pair[1].status in (LinkStatus.ACTIVE, LinkStatus.CREATING))
    if links:
        await insert_rows(tx, payment_links, [_link_row(*pair) for pair in links], _REPLACE_LINK)
    refunds = [_refund_row(payment, refund) for payment in changed for refund in payment.refunds]
    if refunds:
        await insert_rows(tx, payment_refunds, refunds, _REPLACE_REFUND)


async def claim_due(tx: AsyncConnection, *, provider: str, now: datetime, until: datetime, most: int) -> list[UUID]:
    """Lease payments that have something due, the oldest first; nobody else takes them until `until`."""
    parameters = {"provider": provider, "now": now, "until": until, "most": most}
    return list((await tx.execute(_CLAIM, parameters)).scalars())


async def count_due_elsewhere(tx: AsyncConnection, provider: str) -> int:
    """Return how many payments wait for a step at another provider than this."""
    return int(await tx.scalar(_DUE_ELSEWHERE, {"provider": provider}) or 0)


async def lease(tx: AsyncConnection, session_id: UUID, until: datetime | None) -> None:
    """Prolong the lease of a payment, or end it."""
    await tx.execute(_LEASE, {"id": session_id, "until": until})


def _payment_of(row: Mapping[Any, Any], links: Iterable[PaymentLink], refunds: Iterable[Refund]) -> Payment:
    return Payment(
        session_id=row["sessionId"],
        provider=row["provider"],
        status=PaymentStatus(row["status"]),
        amount=row["amount"],
        currency=row["currency"],
        paid_amount=row["paidAmount"],
        refunded_amount=row["refundedAmount"],
        links=tuple(links),
        refunds=tuple(refunds),
        failure_count=row["failureCount"],
        due_at=row["dueAt"],
        created_at=row["createdAt"],
        updated_at=row["updatedAt"],
    )


def _payment_row(payment: Payment) -> dict[str, Any]:
    return {
        "sessionId": payment.session_id,
        "provider": payment.provider,
        "status": str(payment.status),
        "amount": payment.amount,
        "currency": payment.currency,
        "paidAmount": payment.paid_amount,
        "refundedAmount": payment.refunded_amount,
        "failureCount": payment.failure_count,
        "dueAt": payment.due_at,
        "createdAt": payment.created_at,
        "updatedAt": payment.updated_at,
    }


_LINK_COLUMN_OF: Final = {
    "id": "id", "number": "number", "amount": "amount", "key": "idempotencyKey", "expires_at": "expiresAt",
    "lifetime_minutes": "lifetimeMinutes", "url": "url", "provider_link_id": "providerLinkId",
    "payment_id": "providerPaymentId", "is_accepted": "isAccepted", "is_closing": "isClosing", "is_forced": "isForced",
    "paid_amount": "paidAmount", "paid_at": "paidAt", "asked_at": "askedAt", "check_at": "checkAt",
    "reason": "reason", "created_at": "createdAt",
}  # fmt: skip
_REFUND_COLUMN_OF: Final = {
    "id": "id", "link_id": "linkId", "amount": "amount", "key": "idempotencyKey", "is_automatic": "isAutomatic",
    "provider_refund_id": "providerRefundId", "asked_at": "askedAt", "check_at": "checkAt", "command_id": "commandId",
    "reason": "reason", "failure_reason": "failureReason", "created_at": "createdAt",
}  # fmt: skip


def _link_of(row: Mapping[Any, Any]) -> PaymentLink:
    values = {name: row[column] for name, column in _LINK_COLUMN_OF.items()}
    waiting = tuple(UUID(command_id) for command_id in row["commandIds"])
    return PaymentLink(status=LinkStatus(row["status"]), command_ids=waiting, **values)


def _link_row(payment: Payment, link: PaymentLink) -> dict[str, Any]:
    values = {column: getattr(link, name) for name, column in _LINK_COLUMN_OF.items()}
    waiting = [str(command_id) for command_id in link.command_ids]
    return values | {"sessionId": payment.session_id, "status": str(link.status), "commandIds": waiting}


def _refund_of(row: Mapping[Any, Any]) -> Refund:
    values = {name: row[column] for name, column in _REFUND_COLUMN_OF.items()}
    return Refund(status=RefundStatus(row["status"]), **values)


def _refund_row(payment: Payment, refund: Refund) -> dict[str, Any]:
    values = {column: getattr(refund, name) for name, column in _REFUND_COLUMN_OF.items()}
    return values | {"sessionId": payment.session_id, "status": str(refund.status)}

"""The tables of payments; the session worker alone writes them. A lease is no part of a payment: `store.lease`."""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Numeric, String, Table, Uuid
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
_TIME = DateTime(timezone=True)

payments = Table(
    "payments",
    metadata,
    Column("sessionId", Uuid, primary_key=True),
    Column("provider", String(16)),
    Column("status", String(24)),
    Column("amount", Numeric(10, 2)),
    Column("currency", String(3)),
    Column("paidAmount", Numeric(12, 2)),
    Column("refundedAmount", Numeric(12, 2)),
    Column("failureCount", Integer),
    Column("dueAt", _TIME),
    Column("createdAt", _TIME),
    Column("updatedAt", _TIME),
)

payment_links = Table(
    "payment_links",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sessionId", Uuid),
    Column("number", Integer),
    Column("status", String(16)),
    Column("amount", Numeric(10, 2)),
    Column("idempotencyKey", String(255)),
    Column("expiresAt", _TIME),
    Column("lifetimeMinutes", Integer),
    Column("url", String(2048)),
    Column("providerLinkId", String(255)),
    Column("providerPaymentId", String(255)),
    Column("isAccepted", Boolean),
    Column("isClosing", Boolean),
    Column("isForced", Boolean),
    Column("paidAmount", Numeric(10, 2)),
    Column("paidAt", _TIME),
    Column("askedAt", _TIME),
    Column("checkAt", _TIME),
    Column("commandIds", JSONB),
    Column("reason", String(64)),
    Column("createdAt", _TIME),
)

payment_refunds = Table(
    "payment_refunds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sessionId", Uuid),
    Column("linkId", Uuid),
    Column("status", String(16)),
    Column("amount", Numeric(10, 2)),
    Column("idempotencyKey", String(255)),
    Column("isAutomatic", Boolean),
    Column("providerRefundId", String(255)),
    Column("askedAt", _TIME),
    Column("checkAt", _TIME),
    Column("commandId", Uuid),
    Column("reason", String(255)),
    Column("failureReason", String(64)),
    Column("createdAt", _TIME),
)

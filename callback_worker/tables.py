"""The callback worker's tables; only this process writes them. Migrations 0001 to 0005 make them."""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, String, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

metadata = MetaData()

deliveries = Table(
    "callback_deliveries",
    metadata,
    Column("id", Uuid),
    Column("eventId", Uuid),
    Column("type", String(64)),
    Column("sessionId", Uuid),
    Column("requestId", Uuid),
    Column("client", String(255)),
    Column("url", String(2048)),
    Column("host", String(255)),
    Column("destination", String(261)),
    Column("body", Text),
    Column("state", String(16)),
    Column("attemptCount", Integer),
    Column("nextAttemptAt", DateTime(timezone=True)),
    Column("leasedUntil", DateTime(timezone=True)),
    Column("expiresAt", DateTime(timezone=True)),
    Column("createdAt", DateTime(timezone=True)),
)

attempts = Table(
    "callback_attempts",
    metadata,
    Column("callbackId", Uuid),
    Column("number", Integer),
    Column("startedAt", DateTime(timezone=True)),
    Column("outcome", String(32)),
    Column("manual", Boolean),
)

inbox = Table(
    "callback_inbox",
    metadata,
    Column("messageId", Uuid),
    Column("type", String(64)),
    Column("bodyHash", BYTEA),
    Column("outcome", String(16)),
    Column("reason", String(64)),
    Column("receivedAt", DateTime(timezone=True)),
)

redelivery_jobs = Table(
    "callback_redelivery_jobs",
    metadata,
    Column("messageId", Uuid),
    Column("filter", JSONB),
    Column("afterId", Uuid),
    Column("createdAt", DateTime(timezone=True)),
)

"""Payments: one debt per session, its links and refunds, and the sandbox's own books."""

from alembic import op

revision = "0003"
down_revision = "0002"

PAYMENTS = """
-- What the outside sees of the session's debt; written with every change of it, in the same transaction.
ALTER TABLE charging_sessions ADD COLUMN payment jsonb;

-- One debt per session. `dueAt` is when a worker has something to do at the provider, null when it has nothing.
CREATE TABLE payments (
    "sessionId" uuid PRIMARY KEY,
    provider varchar(16) NOT NULL,
    status varchar(24) NOT NULL CHECK (status IN ('NOT_REQUIRED', 'WAIVED', 'PENDING', 'PROCESSING', 'PAID',
        'PARTIALLY_REFUNDED', 'REFUNDED', 'FAILED')),
    amount numeric(10,2) NOT NULL,
    currency varchar(3) NOT NULL,
    "paidAmount" numeric(12,2) NOT NULL,
    "refundedAmount" numeric(12,2) NOT NULL,
    "failureCount" integer NOT NULL,
    "dueAt" timestamptz,
    "leasedUntil" timestamptz,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL
);
CREATE INDEX payments_due ON payments (provider, "dueAt") WHERE "dueAt" IS NOT NULL;
CREATE INDEX payments_open ON payments (status, "createdAt") WHERE status IN ('PENDING', 'PROCESSING', 'FAILED');

-- Each is one object at the provider. The key is stored before the first call and makes a repeated call harmless;
-- `askedAt` says that there was one, whose answer may have been lost.
CREATE TABLE payment_links (
    id uuid PRIMARY KEY,
    "sessionId" uuid NOT NULL REFERENCES payments ("sessionId"),
    number integer NOT NULL,
    status varchar(16) NOT NULL
        CHECK (status IN ('CREATING', 'ACTIVE', 'COMPLETED', 'EXPIRED', 'SUPERSEDED', 'FAILED')),
    amount numeric(10,2) NOT NULL,
    "idempotencyKey" varchar(255) NOT NULL UNIQUE,
    "expiresAt" timestamptz NOT NULL,
    "lifetimeMinutes" integer NOT NULL,
    url varchar(2048),
    "providerLinkId" varchar(255) UNIQUE,
    "providerPaymentId" varchar(255),
    "isAccepted" boolean NOT NULL,
    "isClosing" boolean NOT NULL,
    "isForced" boolean NOT NULL,
    "paidAmount" numeric(10,2),
    "paidAt" timestamptz,
    "askedAt" timestamptz,
    "checkAt" timestamptz,
    "commandIds" jsonb NOT NULL,
    reason varchar(64),
    "createdAt" timestamptz NOT NULL,
    UNIQUE ("sessionId", number)
);
-- At most one link can be paid at a time, and at most one is being made.
CREATE UNIQUE INDEX payment_links_active ON payment_links ("sessionId") WHERE status = 'ACTIVE';
CREATE UNIQUE INDEX payment_links_creating ON payment_links ("sessionId") WHERE status = 'CREATING';
-- One payment settles the debt; any other is given back.
CREATE UNIQUE INDEX payment_links_accepted ON payment_links ("sessionId") WHERE "isAccepted";
CREATE INDEX payment_links_payment ON payment_links ("providerPaymentId");

CREATE TABLE payment_refunds (
    id uuid PRIMARY KEY,
    "sessionId" uuid NOT NULL REFERENCES payments ("sessionId"),
    "linkId" uuid NOT NULL REFERENCES payment_links (id),
    status varchar(16) NOT NULL CHECK (status IN ('REQUESTED', 'PENDING', 'SUCCEEDED', 'FAILED')),
    amount numeric(10,2) NOT NULL,
    "idempotencyKey" varchar(255) NOT NULL UNIQUE,
    "isAutomatic" boolean NOT NULL,
    "providerRefundId" varchar(255) UNIQUE,
    "askedAt" timestamptz,
    "checkAt" timestamptz,
    "commandId" uuid,
    reason varchar(255),
    "failureReason" varchar(64),
    "createdAt" timestamptz NOT NULL
);
CREATE INDEX payment_refunds_session ON payment_refunds ("sessionId");
"""

# The sandbox is a provider as any other, whose books happen to lie here: the gateway shows them, the worker writes.
SANDBOX = """
CREATE TABLE sandbox_links (
    id varchar(64) PRIMARY KEY,
    "idempotencyKey" varchar(255) NOT NULL UNIQUE,
    reference varchar(64) NOT NULL UNIQUE,
    description varchar(512) NOT NULL,
    "amountMinor" bigint NOT NULL,
    currency varchar(3) NOT NULL,
    status varchar(16) NOT NULL CHECK (status IN ('open', 'paid', 'declined', 'expired')),
    "expiresAt" timestamptz NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "paidAt" timestamptz
);

CREATE TABLE sandbox_refunds (
    id varchar(64) PRIMARY KEY,
    "idempotencyKey" varchar(255) NOT NULL UNIQUE,
    reference varchar(64) NOT NULL UNIQUE,
    "linkId" varchar(64) NOT NULL REFERENCES sandbox_links (id),
    "amountMinor" bigint NOT NULL,
    status varchar(16) NOT NULL CHECK (status IN ('succeeded', 'failed')),
    "createdAt" timestamptz NOT NULL
);
CREATE INDEX sandbox_refunds_link ON sandbox_refunds ("linkId");
"""


def upgrade() -> None:
    for script in (PAYMENTS, SANDBOX):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

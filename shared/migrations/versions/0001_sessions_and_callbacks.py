"""Sessions, requests, inbox, outbox and callback deliveries.

There is no downgrade: a table that holds sessions is never dropped by a command.
"""

from alembic import op

revision = "0001"
down_revision = None

SESSIONS = """
CREATE TABLE charging_sessions (
    id uuid PRIMARY KEY,
    "chargerId" varchar(255) NOT NULL,
    "connectorId" varchar(36),
    "stationId" varchar(255),
    "driverId" varchar(255),
    "requestId" uuid,
    status varchar(16) NOT NULL CHECK (status IN ('IN_PROGRESS', 'COMPLETED', 'CANCELLED')),
    phase varchar(16) NOT NULL CHECK (phase IN ('STARTING', 'ACTIVE', 'STOPPING', 'COMPLETED', 'CANCELLED')),
    reason varchar(255),
    "finalCost" numeric(10,2),
    currency varchar(3),
    "energyKwh" numeric,
    metadata jsonb,
    "startedAt" timestamptz,
    "endedAt" timestamptz,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL,
    client varchar(255),
    "callbackUrl" varchar(2048),
    sequence integer NOT NULL
);
-- One active session per charger and connector. A request without a connector takes no charger.
CREATE UNIQUE INDEX charging_sessions_active_charger
    ON charging_sessions ("chargerId", coalesce("connectorId", ''))
    WHERE status = 'IN_PROGRESS' AND ("requestId" IS NULL OR "connectorId" IS NOT NULL);
-- One active session per driver and station among requests without a connector.
CREATE UNIQUE INDEX charging_sessions_active_driver
    ON charging_sessions ("stationId", "driverId")
    WHERE status = 'IN_PROGRESS' AND "requestId" IS NOT NULL AND "connectorId" IS NULL;
CREATE INDEX charging_sessions_newest ON charging_sessions ("createdAt" DESC, id DESC);
CREATE INDEX charging_sessions_charger ON charging_sessions ("chargerId", "createdAt" DESC, id DESC);
CREATE INDEX charging_sessions_driver ON charging_sessions ("driverId", "createdAt" DESC, id DESC);
CREATE INDEX charging_sessions_status ON charging_sessions (status, "createdAt" DESC, id DESC);

CREATE TABLE charging_session_requests (
    id uuid PRIMARY KEY,
    "stationId" varchar(255) NOT NULL,
    "driverId" varchar(255) NOT NULL,
    "connectorId" varchar(36),
    "callbackUrl" varchar(2048) NOT NULL,
    metadata jsonb,
    client varchar(255),
    decision varchar(16) CHECK (decision IN ('allowed', 'not_allowed', 'invalid', 'unknown')),
    reason varchar(255),
    "sessionId" uuid,
    "decidedAt" timestamptz,
    "createdAt" timestamptz NOT NULL
);
"""

MESSAGES = """
-- Every command that was handled, once: the inbox. `outcome` is its one end, PARKED until it has one.
CREATE TABLE inbox (
    "messageId" uuid PRIMARY KEY,
    type varchar(64) NOT NULL,
    "bodyHash" bytea NOT NULL,
    "sessionId" uuid NOT NULL,
    outcome varchar(16) NOT NULL CHECK (outcome IN ('APPLIED', 'REFUSED', 'PARKED')),
    reason varchar(64),
    "receivedAt" timestamptz NOT NULL
);
CREATE INDEX inbox_received ON inbox ("receivedAt");

-- Commands for a session that is not known yet; a start that follows applies them.
CREATE TABLE parked_commands (
    "messageId" uuid PRIMARY KEY,
    "sessionId" uuid NOT NULL,
    type varchar(64) NOT NULL,
    body text NOT NULL,
    client varchar(255),
    privileged boolean NOT NULL,
    "receivedAt" timestamptz NOT NULL,
    "expiresAt" timestamptz NOT NULL
);
CREATE INDEX parked_commands_session ON parked_commands ("sessionId");
CREATE INDEX parked_commands_expiry ON parked_commands ("expiresAt");

-- One row per batch: its events as JSON text. Deleted once the broker has confirmed them all.
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    events text NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "claimedUntil" timestamptz
);
CREATE INDEX outbox_created ON outbox ("createdAt");
"""

CALLBACKS = """
CREATE TABLE callback_deliveries (
    id uuid PRIMARY KEY,
    "eventId" uuid NOT NULL,
    type varchar(64) NOT NULL,
    "sessionId" uuid,
    "requestId" uuid,
    client varchar(255),
    url varchar(2048) NOT NULL,
    host varchar(255) NOT NULL,
    body text NOT NULL,
    state varchar(16) NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'FAILED')),
    reason varchar(16) CHECK (reason IN ('exhausted', 'expired', 'gone', 'blocked', 'rejected')),
    "attemptCount" integer NOT NULL,
    "nextAttemptAt" timestamptz,
    "leasedUntil" timestamptz,
    "expiresAt" timestamptz NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "deliveredAt" timestamptz,
    UNIQUE ("eventId", url)
);
-- What is due, host by host, and nothing else: the claim steps through the hosts, and delivered rows leave it.
CREATE INDEX callback_deliveries_due ON callback_deliveries (host, "nextAttemptAt") WHERE state = 'PENDING';
CREATE INDEX callback_deliveries_session ON callback_deliveries ("sessionId", "createdAt" DESC, id DESC);
CREATE INDEX callback_deliveries_request ON callback_deliveries ("requestId", "createdAt" DESC, id DESC);

-- One HTTP request each, numbered from 1. Opened before the POST; the number is the fencing id of the lease.
CREATE TABLE callback_attempts (
    "callbackId" uuid NOT NULL REFERENCES callback_deliveries (id) ON DELETE CASCADE,
    number integer NOT NULL,
    "startedAt" timestamptz NOT NULL,
    "durationMs" integer,
    outcome varchar(32) NOT NULL,
    "statusCode" integer,
    error varchar(500),
    "responseBody" text,
    manual boolean NOT NULL,
    PRIMARY KEY ("callbackId", number)
);
"""


def upgrade() -> None:
    for script in (SESSIONS, MESSAGES, CALLBACKS):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

"""Standing subscriptions, redeliveries, and the inbox of the commands about callbacks."""

from alembic import op

revision = "0005"
down_revision = "0004"

SUBSCRIPTIONS = """
-- Who gets events beside their own callback URLs. `types` null is events of any type.
CREATE TABLE callback_subscriptions (
    client varchar(255) NOT NULL,
    name varchar(255) NOT NULL,
    url varchar(2048) NOT NULL,
    types jsonb,
    paused boolean NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL,
    PRIMARY KEY (client, name)
);

-- Every command about callbacks that was handled, once.
CREATE TABLE callback_inbox (
    "messageId" uuid PRIMARY KEY,
    type varchar(64) NOT NULL,
    "bodyHash" bytea NOT NULL,
    outcome varchar(16) NOT NULL CHECK (outcome IN ('APPLIED', 'REFUSED')),
    reason varchar(64),
    "receivedAt" timestamptz NOT NULL
);
CREATE INDEX callback_inbox_received ON callback_inbox ("receivedAt");
"""

REDELIVERIES = """
-- Manual attempts count as attempts, but take no place in the schedule.
ALTER TABLE callback_deliveries ADD COLUMN "manualCount" integer NOT NULL DEFAULT 0;
-- A client's own log, newest first: ids are in the order of time.
CREATE INDEX callback_deliveries_client ON callback_deliveries (client, id DESC);
-- What failed, of everybody; there is little of it.
CREATE INDEX callback_deliveries_failed ON callback_deliveries (id DESC) WHERE state = 'FAILED';
-- A time span; rows lie in the order of their birth.
CREATE INDEX callback_deliveries_created ON callback_deliveries USING brin ("createdAt") WITH (autosummarize = on);

-- One manual attempt each, until it is made. The command's id makes it happen once, however often that is delivered.
CREATE TABLE callback_redeliveries (
    "callbackId" uuid NOT NULL REFERENCES callback_deliveries (id) ON DELETE CASCADE,
    "messageId" uuid NOT NULL,
    destination varchar(261) NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "expiresAt" timestamptz NOT NULL,
    PRIMARY KEY ("callbackId", "messageId")
);
CREATE INDEX callback_redeliveries_turn ON callback_redeliveries (destination, "createdAt", "callbackId");
CREATE INDEX callback_redeliveries_expiry ON callback_redeliveries ("expiresAt");

-- A filter that is being worked off, in the order of the deliveries' ids.
CREATE TABLE callback_redelivery_jobs (
    "messageId" uuid PRIMARY KEY,
    filter jsonb NOT NULL,
    "afterId" uuid,
    "createdAt" timestamptz NOT NULL
);
"""


def upgrade() -> None:
    for script in (SUBSCRIPTIONS, REDELIVERIES):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

"""Authorization (drivers, stations, pending requests), tariffs, meter values, adjustments, reviews."""

from alembic import op

revision = "0002"
down_revision = "0001"

SESSIONS = """
ALTER TABLE charging_sessions
    ADD COLUMN tariff jsonb,
    ADD COLUMN meter jsonb,
    ADD COLUMN "needsReview" boolean NOT NULL DEFAULT false,
    ADD COLUMN "reviewReason" varchar(64);
-- What the stale sweeper asks: sessions in progress by their last sign of life.
CREATE INDEX charging_sessions_silent ON charging_sessions ("updatedAt") WHERE status = 'IN_PROGRESS';
-- A client's own list: without it, one that has few sessions among millions is found by reading them all.
CREATE INDEX charging_sessions_client ON charging_sessions (client, "createdAt" DESC, id DESC);

CREATE TABLE meter_values (
    "sessionId" uuid NOT NULL,
    "measuredAt" timestamptz NOT NULL,
    "meterWh" numeric NOT NULL,
    "isTimed" boolean NOT NULL,
    PRIMARY KEY ("sessionId", "measuredAt", "meterWh", "isTimed")
);

-- Meter values that came after the end: what they would have changed. The session's row stays as it is.
CREATE TABLE session_adjustments (
    id uuid PRIMARY KEY,
    "sessionId" uuid NOT NULL,
    "measuredAt" timestamptz NOT NULL,
    "meterWh" numeric NOT NULL,
    "energyKwh" numeric NOT NULL,
    cost numeric(10,2),
    currency varchar(3),
    "createdAt" timestamptz NOT NULL
);
CREATE INDEX session_adjustments_session ON session_adjustments ("sessionId", "createdAt");
"""

AUTHORIZATION = """
-- A request waits for its decision until `deadlineAt`; then it is `unknown`, for ever.
ALTER TABLE charging_session_requests
    ADD COLUMN "messageId" uuid,
    ADD COLUMN "deadlineAt" timestamptz,
    ADD COLUMN sequence integer NOT NULL DEFAULT 1;
CREATE INDEX charging_session_requests_pending ON charging_session_requests ("deadlineAt") WHERE decision IS NULL;

CREATE TABLE drivers (
    "driverId" varchar(255) PRIMARY KEY,
    status varchar(16) NOT NULL CHECK (status IN ('ALLOWED', 'BLOCKED', 'EXPIRED', 'NO_CREDIT')),
    "validFrom" timestamptz,
    "validUntil" timestamptz,
    stations jsonb,
    reason varchar(255),
    "updatedAt" timestamptz NOT NULL
);

CREATE TABLE stations (
    "stationId" varchar(255) PRIMARY KEY,
    open boolean NOT NULL,
    reason varchar(255),
    "updatedAt" timestamptz NOT NULL
);

CREATE TABLE tariffs (
    name varchar(255) PRIMARY KEY,
    currency varchar(3) NOT NULL,
    flat numeric,
    "perKwh" numeric,
    "perHour" numeric,
    "perIdleHour" numeric,
    "stepWh" integer,
    "stepSeconds" integer,
    minimum numeric,
    maximum numeric,
    "taxPercent" numeric,
    "chargerIds" jsonb,
    "updatedAt" timestamptz NOT NULL
);
CREATE INDEX tariffs_chargers ON tariffs USING gin ("chargerIds");
"""


def upgrade() -> None:
    for script in (SESSIONS, AUTHORIZATION):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

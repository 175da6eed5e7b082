"""Callbacks by destination: what deliveries are isolated by, the breakers, what expires, what is gone."""

from alembic import op

revision = "0004"
down_revision = "0003"

DESTINATIONS = """
-- Host name and port: two subscribers on one host are two. `host` stays for people and their filters.
ALTER TABLE callback_deliveries ADD COLUMN destination varchar(261);
UPDATE callback_deliveries SET destination = CASE WHEN host = '' THEN '' ELSE
    CASE WHEN host LIKE '%:%' THEN '[' || host || ']' ELSE host END || ':' || coalesce(
        substring(url FROM '^[^/?#]*//(?:[[][^]]*[]]|[^]:/?#]*):([0-9]+)'),
        CASE WHEN url ILIKE 'https:%' THEN '443' ELSE '80' END) END;
ALTER TABLE callback_deliveries ALTER COLUMN destination SET NOT NULL;
DROP INDEX callback_deliveries_due;
-- What is due, destination by destination, and nothing else: claims step through them, and what has ended leaves it.
CREATE INDEX callback_deliveries_due ON callback_deliveries (destination, "nextAttemptAt") WHERE state = 'PENDING';
-- What expires is ended whether or not its destination may be sent to.
CREATE INDEX callback_deliveries_expiry ON callback_deliveries ("expiresAt") WHERE state = 'PENDING';
-- What answered 410 ends all that follows at the same URL; there is little of it.
CREATE INDEX callback_deliveries_gone_session ON callback_deliveries ("sessionId") WHERE reason = 'gone';
CREATE INDEX callback_deliveries_gone_request ON callback_deliveries ("requestId") WHERE reason = 'gone';
"""

HOSTS = """
-- One row per destination that fails or did a moment ago, for all workers. With `openUntil` its breaker is open.
CREATE TABLE callback_hosts (
    destination varchar(261) PRIMARY KEY,
    "windowEndsAt" timestamptz NOT NULL,
    "successCount" integer NOT NULL,
    "failureCount" integer NOT NULL,
    "failingIds" uuid[] NOT NULL,
    "streakCount" integer NOT NULL,
    "streakBeganAt" timestamptz,
    "openCount" integer NOT NULL,
    "openUntil" timestamptz,
    "probeId" uuid,
    "probeUntil" timestamptz
);
"""


def upgrade() -> None:
    for script in (DESTINATIONS, HOSTS):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

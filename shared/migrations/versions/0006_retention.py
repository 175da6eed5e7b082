"""Indexes by which what is old is found: each holds what may go by its age, and nothing that is kept beside it.

Building them locks their tables against writes, some seconds a million rows: provision while the workers are stopped.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

INBOX = """
DROP INDEX inbox_received;
-- What may go by its age alone.
CREATE INDEX inbox_passing ON inbox ("receivedAt") WHERE NOT (outcome = 'PARKED' OR (outcome = 'APPLIED' AND type IN (
    'session.request.v1', 'session.start.v1', 'session.stop.v1', 'session.cancel.v1',
    'payment.recreate_link.v1', 'payment.refund.v1')));
-- What waits for its end, or goes with its session.
CREATE INDEX inbox_held ON inbox ("sessionId") WHERE (outcome = 'PARKED' OR (outcome = 'APPLIED' AND type IN (
    'session.request.v1', 'session.start.v1', 'session.stop.v1', 'session.cancel.v1',
    'payment.recreate_link.v1', 'payment.refund.v1')));
"""

SESSIONS = """
-- What has ended, by what it was: each kind has a time of its own to be kept.
CREATE INDEX charging_sessions_ended ON charging_sessions (
    (CASE WHEN "startedAt" IS NULL THEN 'refused' WHEN "finalCost" IS NULL THEN 'unpriced' ELSE 'priced' END),
    "updatedAt") WHERE status <> 'IN_PROGRESS';
CREATE INDEX charging_session_requests_refused ON charging_session_requests ("decidedAt")
    WHERE decision IS NOT NULL AND "sessionId" IS NULL;
-- Of the foreign key: without it, each link that goes would read all refunds.
CREATE INDEX payment_refunds_link ON payment_refunds ("linkId");
"""


def upgrade() -> None:
    for script in (INBOX, SESSIONS):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)

"""Indexes by which what is old is found: each holds what may go by its age, and nothing that is kept beside it.

They are built beside everything else, CONCURRENTLY: no table is locked against writes. Broken off, it begins anew.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

INDEXES = {
    # What may go by its age alone.
    "inbox_passing": """inbox ("receivedAt") WHERE NOT (outcome = 'PARKED' OR (outcome = 'APPLIED' AND type IN (
        'session.request.v1', 'session.start.v1', 'session.stop.v1', 'session.cancel.v1',
        'payment.recreate_link.v1', 'payment.refund.v1')))""",
    # What waits for its end, or goes with its session.
    "inbox_held": """inbox ("sessionId") WHERE (outcome = 'PARKED' OR (outcome = 'APPLIED' AND type IN (
        'session.request.v1', 'session.start.v1', 'session.stop.v1', 'session.cancel.v1',
        'payment.recreate_link.v1', 'payment.refund.v1')))""",
    # What has ended, by what it was: each kind has a time of its own to be kept.
    "charging_sessions_ended": """charging_sessions (
        (CASE WHEN "startedAt" IS NULL THEN 'refused' WHEN "finalCost" IS NULL THEN 'unpriced' ELSE 'priced' END),
        "updatedAt") WHERE status <> 'IN_PROGRESS'""",
    "charging_session_requests_refused": """charging_session_requests ("decidedAt")
        WHERE decision IS NOT NULL AND "sessionId" IS NULL""",
    # Of the foreign key: without it, each link that goes would read all refunds.
    "payment_refunds_link": """payment_refunds ("linkId")""",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            # What was broken off leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS inbox_received")

"""The auditor: reads database, queues and receiver until everything has settled, and has it counted."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ops.receiver import Callback
from shared.topology import WORK_QUEUES, dead_letter_queue
from tests.faults.counting import Facts, count
from tests.faults.counting_payments import Books
from tests.faults.database import Database
from tests.faults.findings import Findings
from tests.faults.ledger import Ledger
from tests.faults.site import Site

POLL_S = 1.0
DEAD_QUEUES = [dead_letter_queue(queue.name) for queue in WORK_QUEUES]

_INBOX = 'SELECT "messageId", outcome, reason FROM inbox WHERE "messageId" = ANY($1)'
_OUTCOMES = 'SELECT "sessionId", type, outcome, reason FROM inbox WHERE "sessionId" = ANY($1)'
_SESSIONS = """SELECT id, status, reason, sequence, "callbackUrl" IS NOT NULL AS is_heard
    FROM charging_sessions WHERE id = ANY($1)"""
_DELIVERIES = """SELECT id, "eventId", coalesce("sessionId", "requestId") AS subject, state, reason
    FROM callback_deliveries WHERE "sessionId" = ANY($1) OR "requestId" = ANY($1)"""
_ATTEMPTS = """SELECT "callbackId", outcome FROM callback_attempts WHERE "callbackId" IN (
    SELECT id FROM callback_deliveries WHERE "sessionId" = ANY($1) OR "requestId" = ANY($1))"""
_PAYMENTS = 'SELECT "sessionId", amount, "paidAmount", "refundedAmount" FROM payments WHERE "sessionId" = ANY($1)'
_LINKS = 'SELECT "sessionId", "providerLinkId", "paidAmount" FROM payment_links WHERE "sessionId" = ANY($1)'
_REFUNDS = 'SELECT "sessionId", status FROM payment_refunds WHERE "sessionId" = ANY($1)'
# The provider knows no sessions; its description of a link names the charger, and a story has its own.
_PROVIDER_LINKS = """SELECT s.id AS "sessionId", l."amountMinor", l.status FROM sandbox_links l
    JOIN charging_sessions s ON l.description = 'Charging session at ' || s."chargerId" WHERE s.id = ANY($1)"""
_PROVIDER_REFUNDS = """SELECT s.id AS "sessionId", r."amountMinor" FROM sandbox_refunds r
    JOIN sandbox_links l ON l.id = r."linkId"
    JOIN charging_sessions s ON l.description = 'Charging session at ' || s."chargerId"
    WHERE s.id = ANY($1) AND r.status = 'succeeded'"""


async def audit(site: Site, ledger: Ledger, *, timeout_s: float, may_repeat: bool = True) -> Findings:
    """Look again and again until everything has settled or the time is over; return the last findings.

    Unless they `may_repeat`, callbacks that came twice are unexplained whatever the log of their attempts says.
    """
    began = time.monotonic()

    was_settled = False
    while True:
        findings = count(
            ledger, await facts_of(site.database, ledger, site.callbacks(ledger.name)), may_repeat=may_repeat
        )
        findings.settled_s = time.monotonic() - began
        # Twice: what comes late, comes now, a second application or a duplicate.
        if (findings.is_settled and was_settled) or findings.settled_s > timeout_s:
            break
        was_settled = findings.is_settled
        await asyncio.sleep(POLL_S)
    await _count_letters(site, ledger, findings)
    return findings


async def facts_of(database: Database, ledger: Ledger, callbacks: Sequence[Callback]) -> Facts:
    """Read all that there is of the ledger's subjects. The callbacks were taken before: each has its attempt by now."""
    subjects: list[UUID] = list({entry.subject for entry in ledger.entries})
    about: list[Any] = [subjects]
    inbox, outcomes, sessions, deliveries, attempts = await database.fetch_all(
        (_INBOX, [[entry.message_id for entry in ledger.entries]]), (_OUTCOMES, about), (_SESSIONS, about),
        (_DELIVERIES, about), (_ATTEMPTS, about),
    )  # fmt: skip
    books = Books()
    if any(entry.type.startswith("payment.") for entry in ledger.entries):
        books = Books(
            *await database.fetch_all(
                (_PAYMENTS, about), (_LINKS, about), (_REFUNDS, about), (_PROVIDER_LINKS, about),
                (_PROVIDER_REFUNDS, about),
            )
        )  # fmt: skip
    return Facts(inbox, outcomes, sessions, deliveries, attempts, list(callbacks), books)


async def _count_letters(site: Site, ledger: Ledger, found: Findings) -> None:
    """Add what lies among the dead letters."""
    await site.broker.collect_letters_when_up(DEAD_QUEUES)
    letters = (e for e in ledger.entries if str(e.message_id) in site.broker.letters)
    found.dead_letters = found.blame(
        "dead letter", (f"{e.key} {site.broker.letters[str(e.message_id)]}" for e in letters)
    )

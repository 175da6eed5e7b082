"""The auditor: compares what callers were told with the database, the queues and the receiver, and counts.

It knows the product by its contract and its tables, and shares no rule with it: one command, one outcome; as many
events as the outcomes call for; one delivery an event; one callback a delivery, or as many more as the log owns up to.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.topology import WORK_QUEUES, dead_letter_queue
from tests.faults.ledger import Entry, Ledger
from tests.faults.site import Site

POLL_S = 0.5
DEAD_QUEUES = [dead_letter_queue(queue.name) for queue in WORK_QUEUES]
TERMINAL = ("APPLIED", "REFUSED")

_INBOX = 'SELECT "messageId", outcome, reason FROM inbox WHERE "messageId" = ANY($1)'
_OUTCOMES = 'SELECT "sessionId", type, outcome, reason FROM inbox WHERE "sessionId" = ANY($1)'
_SESSIONS = """SELECT id, status, reason, sequence, "callbackUrl" IS NOT NULL AS is_heard
    FROM charging_sessions WHERE id = ANY($1)"""
_DELIVERIES = """SELECT id, "eventId", coalesce("sessionId", "requestId") AS subject, state, reason
    FROM callback_deliveries WHERE "sessionId" = ANY($1) OR "requestId" = ANY($1)"""
_ATTEMPTS = """SELECT "callbackId", outcome FROM callback_attempts WHERE "callbackId" = ANY($1)"""
ENDED = {"session.stop.v1": ("COMPLETED", "CANCELLED"), "session.cancel.v1": ("CANCELLED", "COMPLETED")}


@dataclass(slots=True)
class Findings:
    """The counts of one row, and up to some examples of what must not be."""

    sent: int = 0
    acknowledged: int = 0
    terminal: int = 0
    lost: int = 0
    applied_twice: int = 0
    owed: int = 0
    delivered: int = 0
    failed_visibly: int = 0
    undelivered: int = 0
    duplicates_explained: int = 0
    duplicates_unexplained: int = 0
    ghosts_unknown: int = 0
    ghosts_denied: int = 0
    dead_letters: int = 0
    uncommitted: int = 0
    unverified: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    settled_s: float = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether all that was acknowledged has come to its end."""
        return self.lost == 0 and self.undelivered == 0

    @property
    def is_clean(self) -> bool:
        return self.is_settled and not any(
            (
                self.applied_twice, self.duplicates_unexplained, self.ghosts_denied, self.dead_letters,
                self.uncommitted, self.unverified,
            )
        )  # fmt: skip

    def blame(self, what: str, examples: Iterable[object]) -> int:
        """Count, and keep the first few as examples."""
        found = list(examples)
        self.examples += [f"{what}: {example}" for example in found[:3]]
        return len(found)


async def audit(site: Site, ledger: Ledger, *, timeout_s: float, may_repeat: bool = True) -> Findings:
    """Look again and again until everything has settled or the time is over; return the last findings.

    Unless they `may_repeat`, callbacks that came twice are unexplained whatever the log of their attempts says.
    """
    began = time.monotonic()
    while True:
        findings = await look(site, ledger, may_repeat=may_repeat)
        findings.settled_s = time.monotonic() - began
        if findings.is_settled or findings.settled_s > timeout_s:
            # What comes late, comes now: a second application, a duplicate.
            await asyncio.sleep(POLL_S)
            last = await look(site, ledger, may_repeat=may_repeat)
            return await _with_letters(site, ledger, last, findings.settled_s)
        await asyncio.sleep(POLL_S)


async def look(site: Site, ledger: Ledger, *, may_repeat: bool = True) -> Findings:
    """Count once."""
    found = Findings(sent=len(ledger.entries), answers=ledger.answers())
    subjects = list({entry.subject for entry in ledger.entries})
    inbox = {row["messageId"]: row for row in await site.database.fetch(_INBOX, [e.message_id for e in ledger.entries])}
    sessions = {row["id"]: row for row in await site.database.fetch(_SESSIONS, subjects)}
    outcomes = await site.database.fetch(_OUTCOMES, subjects)
    deliveries = await site.database.fetch(_DELIVERIES, subjects)
    attempts = await site.database.fetch(_ATTEMPTS, [row["id"] for row in deliveries])
    _count_commands(found, ledger, inbox, sessions)
    _count_events(found, sessions, outcomes, deliveries)
    explaining = attempts if may_repeat else []
    _count_callbacks(found, site, ledger, sessions, deliveries, explaining)
    return found


def _count_commands(found: Findings, ledger: Ledger, inbox: dict[UUID, Any], sessions: dict[UUID, Any]) -> None:
    acknowledged = ledger.acknowledged
    found.acknowledged = len(acknowledged)
    found.terminal = sum(_is_applied(entry, inbox, sessions) for entry in acknowledged)
    found.lost = found.blame("lost", (e.key for e in acknowledged if not _is_applied(e, inbox, sessions)))
    ghosts = [e for e in ledger.entries if not e.is_acknowledged and e.message_id in inbox]
    found.ghosts_denied = found.blame("applied though denied", (e.key for e in ghosts if e.is_denied))
    found.ghosts_unknown = len(ghosts) - found.ghosts_denied


def _is_applied(entry: Entry, inbox: dict[UUID, Any], sessions: dict[UUID, Any]) -> bool:
    """Whether the command has its one outcome and the session shows it."""
    row = inbox.get(entry.message_id)
    if row is None or row["outcome"] not in TERMINAL:
        return False
    if row["outcome"] == "REFUSED":
        return True
    session = sessions.get(entry.subject)
    return session is not None and session["status"] in ENDED.get(entry.type, (session["status"],))


def _count_events(found: Findings, sessions: dict[UUID, Any], outcomes: list[Any], deliveries: list[Any]) -> None:
    """A session's sequence counts its events: more than its commands call for means that one was applied twice."""
    called_for: Counter[UUID] = Counter()
    for row in outcomes:
        called_for[row["sessionId"]] += _events_of(row, sessions.get(row["sessionId"]))
    twice = {
        key: row["sequence"] - called_for[key] for key, row in sessions.items() if row["sequence"] > called_for[key]
    }
    found.blame("applied twice", (f"session {key}, {count} events too many" for key, count in twice.items()))
    found.applied_twice = sum(twice.values())
    made = Counter(row["subject"] for row in deliveries)
    owed = {key: row["sequence"] for key, row in sessions.items() if row["is_heard"]}
    missing = {key: count - made[key] for key, count in owed.items() if made[key] < count}
    found.owed = sum(owed.values())
    found.blame("event without a delivery", (f"session {key}, {count} missing" for key, count in missing.items()))
    found.undelivered += sum(missing.values())


def _events_of(row: Any, session: Any) -> int:
    if row["outcome"] == "REFUSED":
        return 1
    if row["type"] == "session.meter.v1" or row["outcome"] == "PARKED":
        return 0
    overtaken = session is not None and session["reason"] == "STOPPED_BEFORE_START"
    return 0 if overtaken and row["type"] == "session.start.v1" else 1


def _count_callbacks(
    found: Findings, site: Site, ledger: Ledger, sessions: dict[UUID, Any], deliveries: list[Any], attempts: list[Any]
) -> None:
    came = Counter(callback.id for callback in site.callbacks(ledger.name))
    unverified = (callback.id for callback in site.callbacks(ledger.name) if not callback.verified)
    found.unverified = found.blame("bad signature", unverified)
    unfinished = Counter(row["callbackId"] for row in attempts if row["outcome"] not in ("delivered", "not_made"))
    pending, silent, unexplained = [], [], []
    for row in deliveries:
        count = came.pop(str(row["eventId"]), 0)
        if row["state"] == "DELIVERED" and count:
            found.delivered += 1
        elif row["state"] == "FAILED" and row["reason"]:
            found.failed_visibly += 1
        elif row["state"] == "DELIVERED":
            silent.append(row["eventId"])
        else:
            pending.append(row["eventId"])
        extra = max(0, count - 1)
        owned_up = min(extra, unfinished[row["id"]])
        found.duplicates_explained += owned_up
        if extra > owned_up:
            unexplained.append(f"{row['eventId']}, {extra - owned_up} too many")
    found.undelivered += found.blame("not delivered", pending) + found.blame("marked delivered, never came", silent)
    found.duplicates_unexplained = found.blame("duplicate", unexplained)
    # G5: whatever came speaks of a delivery that is committed, and of a session that has come at least so far.
    found.uncommitted = found.blame("callback of nothing", came)
    for callback in site.callbacks(ledger.name):
        session = sessions.get(UUID(callback.data.get("sessionId") or str(UUID(int=0))))
        if session is not None and callback.data["sequence"] > session["sequence"]:
            found.uncommitted += found.blame("callback ahead of its session", [callback.id])


async def _with_letters(site: Site, ledger: Ledger, found: Findings, settled_s: float) -> Findings:
    """Add what lies among the dead letters."""
    found.settled_s = settled_s
    await site.broker.collect_letters_when_up(DEAD_QUEUES)
    letters = (e for e in ledger.entries if str(e.message_id) in site.broker.letters)
    found.dead_letters = found.blame(
        "dead letter", (f"{e.key} {site.broker.letters[str(e.message_id)]}" for e in letters)
    )
    return found

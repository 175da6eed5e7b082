"""Counts what became of every call, pure: from what callers were told, and what database and receiver hold.

It knows the product by its contract and its tables, and shares no rule with it: one command, one outcome; as many
events as the outcomes call for; one delivery an event; one callback a delivery, or as many more as the log owns up to.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ops.receiver import Callback
from tests.faults.counting_payments import Books, count_payments, events_of_payments
from tests.faults.findings import Findings
from tests.faults.ledger import Entry, Ledger

Row = Mapping[str, Any]

TERMINAL = ("APPLIED", "REFUSED")
ENDED = {"session.stop.v1": ("COMPLETED", "CANCELLED"), "session.cancel.v1": ("CANCELLED", "COMPLETED")}
# Commands of one story follow one another, so none is refused but one that a redelivered start overtook, and a new link
# for what has been paid meanwhile.
MAY_BE_REFUSED = ("ALREADY_ENDED", "ALREADY_PAID")


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is of one row's subjects: the rows of the product's tables, and what the receiver got."""

    inbox: Sequence[Row]
    outcomes: Sequence[Row]
    sessions: Sequence[Row]
    deliveries: Sequence[Row]
    attempts: Sequence[Row]
    callbacks: Sequence[Callback]
    books: Books = field(default_factory=Books)


def count(ledger: Ledger, facts: Facts, *, may_repeat: bool = True) -> Findings:
    """Compare what callers were told with the facts.

    Unless they `may_repeat`, callbacks that came twice are unexplained whatever the log of their attempts says.
    """
    found = Findings(sent=len(ledger.entries), answers=ledger.answers())
    inbox = {row["messageId"]: row for row in facts.inbox}
    sessions = {row["id"]: row for row in facts.sessions}
    _count_commands(found, ledger, inbox, sessions)
    _count_events(found, facts, sessions)
    _count_deliveries(found, facts, facts.attempts if may_repeat else ())
    _count_callbacks(found, facts, sessions)
    count_payments(found, ledger, inbox, facts.books)
    if found.is_void:
        found.blame(
            "nothing to look at", [f"{found.acknowledged} acknowledged, {found.owed} events, {found.delivered}"]
        )
    return found


def _count_commands(found: Findings, ledger: Ledger, inbox: Mapping[UUID, Row], sessions: Mapping[UUID, Row]) -> None:
    acknowledged = ledger.acknowledged
    found.acknowledged = len(acknowledged)
    found.terminal = sum(_is_applied(entry, inbox, sessions) for entry in acknowledged)
    found.lost = found.blame("lost", (e.key for e in acknowledged if not _is_applied(e, inbox, sessions)))
    ghosts = [e for e in ledger.entries if not e.is_acknowledged and e.message_id in inbox]
    found.ghosts_denied = found.blame("applied though denied", (e.key for e in ghosts if e.is_denied))
    found.ghosts_unknown = len(ghosts) - found.ghosts_denied
    refused = [(e, inbox[e.message_id]["reason"]) for e in acknowledged if _is_refused(e, inbox)]
    found.wrongly_refused = found.blame(
        "refused", (f"{e.key} {reason}" for e, reason in refused if reason not in MAY_BE_REFUSED)
    )


def _is_refused(entry: Entry, inbox: Mapping[UUID, Row]) -> bool:
    return entry.message_id in inbox and inbox[entry.message_id]["outcome"] == "REFUSED"


def _is_applied(entry: Entry, inbox: Mapping[UUID, Row], sessions: Mapping[UUID, Row]) -> bool:
    """Whether the command has its one outcome and the session shows it."""
    row = inbox.get(entry.message_id)
    if row is None or row["outcome"] not in TERMINAL:
        return False
    if row["outcome"] == "REFUSED":
        return True
    session = sessions.get(entry.subject)
    return session is not None and session["status"] in ENDED.get(entry.type, (session["status"],))


def _count_events(found: Findings, facts: Facts, sessions: Mapping[UUID, Row]) -> None:
    """A session's sequence counts its events: more than its commands call for means that one was applied twice."""
    called_for = Counter(events_of_payments(facts.books))
    for row in facts.outcomes:
        called_for[row["sessionId"]] += _events_of(row, sessions.get(row["sessionId"]))
    twice = {
        key: row["sequence"] - called_for[key] for key, row in sessions.items() if row["sequence"] > called_for[key]
    }
    found.blame("applied twice", (f"session {key}, {count} events too many" for key, count in twice.items()))
    found.applied_twice = sum(twice.values())


def _events_of(row: Row, session: Row | None) -> int:
    if row["type"].startswith("payment."):
        return int(row["outcome"] == "REFUSED" and row["type"] != "payment.provider_event.v1")
    if row["outcome"] == "REFUSED":
        return 1
    if row["type"] == "session.meter.v1" or row["outcome"] == "PARKED":
        return 0
    overtaken = session is not None and session["reason"] == "STOPPED_BEFORE_START"
    return 0 if overtaken and row["type"] == "session.start.v1" else 1


def _count_deliveries(found: Findings, facts: Facts, explaining: Sequence[Row]) -> None:
    """Every event has its delivery, and every delivery its end, which the receiver has seen."""
    made = Counter(row["subject"] for row in facts.deliveries)
    owed = {row["id"]: row["sequence"] for row in facts.sessions if row["is_heard"]}
    missing = {key: number - made[key] for key, number in owed.items() if made[key] < number}
    found.owed = sum(owed.values())
    found.blame("event without a delivery", (f"session {key}, {number} missing" for key, number in missing.items()))
    came = Counter(callback.id for callback in facts.callbacks)
    unfinished = Counter(row["callbackId"] for row in explaining if row["outcome"] not in ("delivered", "not_made"))
    pending: list[UUID] = []
    silent: list[UUID] = []
    unexplained: list[str] = []
    for row in facts.deliveries:
        times = came.pop(str(row["eventId"]), 0)
        if row["state"] == "DELIVERED" and times:
            found.delivered += 1
        elif row["state"] == "FAILED" and row["reason"]:
            found.failed_visibly += found.blame("failed", [f"{row['eventId']} {row['reason']}"])
        else:
            (silent if row["state"] == "DELIVERED" else pending).append(row["eventId"])
        extra = max(0, times - 1)
        owned_up = min(extra, unfinished[row["id"]])
        found.duplicates_explained += owned_up
        if extra > owned_up:
            unexplained.append(f"{row['eventId']}, {extra - owned_up} too many")
    found.undelivered = sum(missing.values())
    found.undelivered += found.blame("not delivered", pending) + found.blame("marked delivered, never came", silent)
    found.duplicates_unexplained = found.blame("duplicate", unexplained)
    # G5: whatever came speaks of a delivery that is committed, and of a session that has come at least so far.
    found.uncommitted = found.blame("callback of nothing", came)


def _count_callbacks(found: Findings, facts: Facts, sessions: Mapping[UUID, Row]) -> None:
    """What the receiver itself can tell: signatures, and the numbers 1, 2, 3 … of each session, each for one event."""
    found.unverified = found.blame("bad signature", (each.id for each in facts.callbacks if not each.verified))
    numbers: defaultdict[UUID, dict[int, set[str]]] = defaultdict(dict)
    for callback in facts.callbacks:
        subject = callback.data.get("sessionId") or callback.data.get("requestId")
        numbers[UUID(subject)].setdefault(callback.data["sequence"], set()).add(callback.id)
    for subject, events in numbers.items():
        twice = [f"number {number} of {subject}" for number, ids in events.items() if len(ids) > 1]
        found.applied_twice += found.blame("two events of one number", twice)
        session = sessions.get(subject)
        if session is not None and max(events) > session["sequence"]:
            found.uncommitted += found.blame("callback ahead of its session", [f"number {max(events)} of {subject}"])
    failed = {row["subject"] for row in facts.deliveries if row["state"] == "FAILED"}
    gaps = [
        f"number {number} of {key}"
        for key, session in sessions.items()
        if session["is_heard"] and key not in failed
        for number in range(1, session["sequence"] + 1)
        if number not in numbers.get(key, ())
    ]
    # Mostly these are the undelivered ones; what the log of deliveries knows nothing of is found here alone.
    if len(gaps) > found.undelivered:
        found.undelivered += found.blame("never came", gaps[found.undelivered :])

"""The fault suite's auditor, fed with lies: it must see each, and must not be content with nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from ops.receiver import Callback
from tests.faults.counting import Facts, count
from tests.faults.counting_payments import Books
from tests.faults.findings import Findings
from tests.faults.ledger import Answer, Ledger, Word

ACKNOWLEDGED = Answer(Word.ACKNOWLEDGED, "202")
NO = Answer(Word.NO, "503 broker-unavailable")
SILENT = Answer(Word.UNKNOWN, "no answer")


@dataclass
class World:
    """One session: started, metered, stopped with a cost, paid, half of it given back; all is as it should be."""

    ledger: Ledger = field(default_factory=lambda: Ledger("row"))
    session: UUID = field(default_factory=uuid4)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    callbacks: list[Callback] = field(default_factory=list)

    def __post_init__(self) -> None:
        types = ("session.start.v1", "session.meter.v1", "session.stop.v1", "payment.provider_event.v1")
        for each in (*types, "payment.refund.v1"):
            self.send(each, ACKNOWLEDGED)
        inbox = [
            {"messageId": e.message_id, "sessionId": self.session, "type": e.type, "outcome": "APPLIED", "reason": None}
            for e in self.ledger.entries
        ]
        session = {"id": self.session, "status": "COMPLETED", "reason": None, "sequence": 0, "is_heard": True}
        sums = {"amount": Decimal(10), "paidAmount": Decimal(10), "refundedAmount": Decimal(5)}
        at_provider = {"sessionId": self.session, "amountMinor": 1000, "status": "paid"}
        self.tables = {
            "inbox": inbox, "sessions": [session], "deliveries": [], "attempts": [],
            "payments": [{"sessionId": self.session, **sums}],
            "links": [{"sessionId": self.session, "providerLinkId": "l", "paidAmount": Decimal(10)}],
            "refunds": [{"sessionId": self.session, "status": "SUCCEEDED"}], "provider_links": [at_provider],
            "provider_refunds": [{"sessionId": self.session, "amountMinor": 500}],
        }  # fmt: skip
        for _ in ("started", "completed", "link_created", "paid", "refunded"):
            self.tell()

    def send(self, type: str, *answers: Answer) -> None:
        body = {"amount": "5.00"} if type == "payment.refund.v1" else {}
        entry = self.ledger.note(key=type, type=type, message_id=uuid4(), subject=self.session, body=body)
        entry.answers += answers

    def tell(self) -> None:
        """One event more, with its delivery, its attempt and its callback."""
        event, delivery = uuid4(), uuid4()
        session = self.tables["sessions"][0]
        session["sequence"] += 1
        row = {"id": delivery, "eventId": event, "subject": self.session, "state": "DELIVERED", "reason": None}
        self.tables["deliveries"].append(row)
        self.tables["attempts"].append({"callbackId": delivery, "outcome": "delivered"})
        self.come(event, session["sequence"])

    def come(self, event: UUID | str, sequence: int) -> None:
        body = json.dumps({"data": {"sessionId": str(self.session), "sequence": sequence}}).encode()
        self.callbacks.append(Callback("/row", {"webhook-id": str(event)}, body, 0.0, verified=True))

    def audited(self, **options: bool) -> Findings:
        books = {name: self.tables[name] for name in Books.__dataclass_fields__}
        rows = {name: self.tables[name] for name in ("inbox", "sessions", "deliveries", "attempts")}
        facts = Facts(outcomes=self.tables["inbox"], callbacks=self.callbacks, books=Books(**books), **rows)
        return count(self.ledger, facts, **options)


def entry_row(world: World, type: str) -> dict[str, Any]:
    return next(row for row in world.tables["inbox"] if row["type"] == type)


def forget(world: World, type: str) -> None:
    world.tables["inbox"].remove(entry_row(world, type))


def come_again(world: World) -> None:
    world.callbacks.append(world.callbacks[0])


def lie_of_a_ghost(world: World, *answers: Answer) -> None:
    world.send("session.meter.v1", *answers)
    entry = world.ledger.entries[-1]
    row = {"messageId": entry.message_id, "sessionId": world.session, "type": entry.type, "outcome": "APPLIED"}
    world.tables["inbox"].append(row)


def unverify(world: World) -> None:
    world.callbacks[0] = replace(world.callbacks[0], verified=False)


def lose_the_last_event(world: World) -> None:
    """No delivery, no callback: only the session's own count tells of it."""
    world.tables["deliveries"].pop()
    world.callbacks.pop()


def pay_on_a_second_link(world: World) -> None:
    world.tables["provider_links"].append(dict(world.tables["provider_links"][0]))
    world.tables["payments"][0]["paidAmount"] = Decimal(20)


def refund_again(world: World) -> None:
    world.tables["provider_refunds"].append(dict(world.tables["provider_refunds"][0]))
    world.tables["payments"][0]["refundedAmount"] = Decimal(10)


def keep_the_refund(world: World) -> None:
    world.tables["provider_refunds"].clear()
    world.tables["payments"][0]["refundedAmount"] = Decimal(0)


def forget_the_payment(world: World) -> None:
    """Neither provider nor books know of it; only the caller was told that it was taken."""
    keep_the_refund(world)
    world.tables["provider_links"].clear()
    world.tables["payments"][0]["paidAmount"] = Decimal(0)


LIES: dict[str, tuple[Callable[[World], Any], str]] = {
    "the inbox row is gone": (lambda w: forget(w, "session.stop.v1"), "lost"),
    "the session is gone": (lambda w: w.tables["sessions"].clear(), "lost"),
    "the session never ended": (lambda w: w.tables["sessions"][0].update(status="IN_PROGRESS"), "lost"),
    "a command is parked for ever": (lambda w: entry_row(w, "session.stop.v1").update(outcome="PARKED"), "lost"),
    "nobody wrote down an outcome": (lambda w: w.tables["inbox"].clear(), "lost"),
    "refused for no reason": (
        lambda w: entry_row(w, "session.stop.v1").update(outcome="REFUSED", reason="CHARGER_BUSY"), "wrongly_refused",
    ),
    "an event too many": (lambda w: w.tell(), "applied_twice"),
    "two events of one number": (lambda w: w.come(w.tables["deliveries"][1]["eventId"], 1), "applied_twice"),
    "a callback never came": (lambda w: w.callbacks.pop(), "undelivered"),
    "no callback ever came": (lambda w: w.callbacks.clear(), "undelivered"),
    "an event has no delivery": (lose_the_last_event, "undelivered"),
    "a delivery waits": (lambda w: w.tables["deliveries"][0].update(state="PENDING"), "undelivered"),
    "a delivery failed": (lambda w: w.tables["deliveries"][0].update(state="FAILED", reason="gone"), "failed_visibly"),
    "a callback came twice": (come_again, "duplicates_unexplained"),
    "a callback of nothing": (lambda w: w.come(uuid4(), 1), "uncommitted"),
    "a callback ahead of its session": (lambda w: w.come(w.callbacks[0].id, 9), "uncommitted"),
    "a callback with a bad signature": (unverify, "unverified"),
    "denied, and applied": (lambda w: lie_of_a_ghost(w, NO, NO), "ghosts_denied"),
    "a driver paid twice": (pay_on_a_second_link, "charged_twice"),
    "a driver may pay twice": (
        lambda w: w.tables["provider_links"].extend({**w.tables["provider_links"][0], "status": "open"} for _ in "12"),
        "charged_twice",
    ),
    "given back twice": (refund_again, "refunded_twice"),
    "not given back": (keep_the_refund, "charged_twice"),
    "paid, and not in the books": (lambda w: w.tables["payments"][0].update(paidAmount=Decimal(0)), "payments_lost"),
    "pressed, and not paid": (forget_the_payment, "payments_lost"),
}  # fmt: skip


def test_a_true_world_is_clean() -> None:
    found = World().audited()
    assert found.is_clean, found.examples
    assert (found.acknowledged, found.terminal, found.delivered, found.paid, found.refunded) == (5, 5, 5, 1, 1)


@pytest.mark.parametrize("name", LIES)
def test_every_lie_is_seen_and_counted_as_what_it_is(name: str) -> None:
    world = World()
    lie, counted_as = LIES[name]
    lie(world)
    found = world.audited()
    assert getattr(found, counted_as) > 0, found
    assert not found.is_clean
    assert found.examples, "a count without an example helps nobody"


def test_a_world_without_callers_is_not_clean() -> None:
    assert not count(Ledger("row"), Facts([], [], [], [], [], [])).is_clean


def test_a_world_in_which_everybody_is_refused_is_not_clean() -> None:
    ledger = Ledger("row")
    entry = ledger.note(key="a", type="session.start.v1", message_id=uuid4(), subject=uuid4(), body={})
    entry.answers.append(NO)
    assert not count(ledger, Facts([], [], [], [], [], [])).is_clean


def test_a_world_without_events_is_not_clean() -> None:
    """Commands applied, and nobody ever told of anything."""
    world = World()
    world.tables["sessions"][0]["is_heard"] = False
    world.tables["deliveries"].clear()
    world.callbacks.clear()
    found = world.audited()
    assert (found.lost, found.undelivered, found.is_clean) == (0, 0, False)


def test_a_ghost_is_counted_and_no_failure() -> None:
    """Nobody was told no; whoever was told nothing may find it done."""
    world = World()
    lie_of_a_ghost(world, SILENT, NO)
    found = world.audited()
    assert (found.ghosts_unknown, found.ghosts_denied, found.is_clean) == (1, 0, True)


def test_a_duplicate_is_explained_by_an_attempt_without_a_known_end_and_by_no_other() -> None:
    world = World()
    come_again(world)
    attempt = {"callbackId": world.tables["deliveries"][0]["id"], "outcome": "ambiguous"}
    world.tables["attempts"].append(attempt)
    assert (world.audited().duplicates_explained, world.audited().is_clean) == (1, True)
    assert world.audited(may_repeat=False).duplicates_unexplained == 1
    come_again(world)
    assert world.audited().duplicates_unexplained == 1


def test_a_refund_that_was_refused_is_owed_to_nobody() -> None:
    world = World()
    entry_row(world, "payment.refund.v1").update(outcome="REFUSED", reason="ALREADY_PAID")
    world.tables["refunds"].clear()
    keep_the_refund(world)
    found = world.audited()
    assert (found.charged_twice, found.refunded_twice, found.payments_lost) == (0, 0, 0)

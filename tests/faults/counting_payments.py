"""Counts money, pure: what drivers paid at the provider, what the books say, and what was given back."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.faults.findings import Findings
from tests.faults.ledger import Ledger

Row = Mapping[str, Any]
REFUSED: Row = {"outcome": "REFUSED"}


@dataclass(frozen=True, slots=True)
class Books:
    """The product's books (`payments`, with links and refunds), and the provider's own, by session."""

    payments: Sequence[Row] = ()
    links: Sequence[Row] = ()
    refunds: Sequence[Row] = ()
    provider_links: Sequence[Row] = ()
    provider_refunds: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Money:
    """One session's money at the provider, in its currency's units; `open` counts links that can be paid now."""

    paid: Decimal
    returned: Decimal
    open: int


def count_payments(found: Findings, ledger: Ledger, inbox: Mapping[UUID, Row], books: Books) -> None:
    """Nobody pays twice, nothing paid is forgotten, nothing is given back twice."""
    wanted_back: defaultdict[UUID, Decimal] = defaultdict(Decimal)
    for entry in ledger.entries:
        if entry.amount is not None and inbox.get(entry.message_id, REFUSED)["outcome"] != "REFUSED":
            wanted_back[entry.subject] += entry.amount
    for row in books.payments:
        key = row["sessionId"]
        money = _at_the_provider(books, key)
        found.payments += 1
        found.paid += money.paid > 0
        found.refunded += money.returned > 0
        surplus = max(Decimal(0), money.paid - row["amount"])
        back = wanted_back[key]
        if money.returned > back + surplus:
            found.refunded_twice += found.blame("given back twice", [f"{key} {money}, wanted {back} + {surplus}"])
        elif money.returned < back + surplus:
            found.charged_twice += found.blame("paid too much, kept", [f"{key} {money}, to return {back} + {surplus}"])
        if money.open > 1:
            found.charged_twice += found.blame("links that can be paid", [f"{key}: {money.open}"])
        if (row["paidAmount"], row["refundedAmount"]) != (money.paid, money.returned):
            told = f"{key} {money}, books {row['paidAmount']} and {row['refundedAmount']}"
            found.payments_lost += found.blame("not in the books", [told])
    found.payments_lost += found.blame("pressed, not paid", _unpaid(ledger, books))


def _at_the_provider(books: Books, session_id: UUID) -> Money:
    links = [row for row in books.provider_links if row["sessionId"] == session_id]
    returned = sum(row["amountMinor"] for row in books.provider_refunds if row["sessionId"] == session_id)
    return Money(
        paid=Decimal(sum(row["amountMinor"] for row in links if row["status"] == "paid")) / 100,
        returned=Decimal(returned) / 100,
        open=sum(row["status"] == "open" for row in links),
    )


def _unpaid(ledger: Ledger, books: Books) -> Iterator[str]:
    """A session on whose link somebody pressed "pay", with an acknowledgement, and which nobody has paid."""
    paid = {row["sessionId"] for row in books.provider_links if row["status"] == "paid"}
    for entry in ledger.acknowledged:
        if entry.type == "payment.provider_event.v1" and entry.subject not in paid:
            yield entry.key


def events_of_payments(books: Books) -> Counter[UUID]:
    """How many events the payments of each session call for, at the most."""
    called_for: Counter[UUID] = Counter()
    for row in books.links:
        called_for[row["sessionId"]] += (row["providerLinkId"] is not None) + (row["paidAmount"] is not None)
    for row in books.refunds:
        called_for[row["sessionId"]] += row["status"] in ("SUCCEEDED", "FAILED")
    return called_for

"""What the callers know: every command they sent, and every answer, or its absence."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID


class Word(Enum):
    """What one call told its caller."""

    ACKNOWLEDGED = "acknowledged"
    NO = "no"  # refused for sure: nothing may have been stored
    UNKNOWN = "unknown"  # 503 outcome-unknown, no confirm, or no answer at all


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's answer; `detail` is its status and problem, or what broke."""

    word: Word
    detail: str


@dataclass(slots=True)
class Entry:
    """One command under one key, however often it was sent. `subject` is its session or request.

    `amount` is what a refund asks for.
    """

    key: str
    type: str
    message_id: UUID
    subject: UUID
    body_hash: str
    amount: Decimal | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def is_acknowledged(self) -> bool:
        return any(answer.word is Word.ACKNOWLEDGED for answer in self.answers)

    @property
    def is_denied(self) -> bool:
        """Whether every call was told no: then nothing may have come of it."""
        return bool(self.answers) and all(answer.word is Word.NO for answer in self.answers)


class Ledger:
    """The commands of one row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[Entry] = []

    def note(self, *, key: str, type: str, message_id: UUID, subject: UUID, body: dict[str, Any]) -> Entry:
        """Write down a command before it is sent for the first time."""
        body_hash = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        amount = Decimal(str(body["amount"])) if type == "payment.refund.v1" else None
        entry = Entry(key, type, message_id, subject, body_hash, amount)
        self.entries.append(entry)
        return entry

    @property
    def acknowledged(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_acknowledged]

    def answers(self) -> Counter[str]:
        """How often each answer was given that was no acknowledgement."""
        every = (answer for entry in self.entries for answer in entry.answers)
        return Counter(answer.detail for answer in every if answer.word is not Word.ACKNOWLEDGED)

"""What the auditor has found in one row."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

# The counts of which every row must show 0.
WRONG = (
    "lost", "applied_twice", "undelivered", "duplicates_unexplained", "ghosts_denied", "dead_letters", "uncommitted",
    "unverified", "wrongly_refused", "failed_visibly", "charged_twice", "payments_lost", "refunded_twice",
)  # fmt: skip


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
    wrongly_refused: int = 0
    payments: int = 0
    paid: int = 0
    refunded: int = 0
    charged_twice: int = 0
    payments_lost: int = 0
    refunded_twice: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    settled_s: float = 0.0

    @property
    def is_void(self) -> bool:
        """Whether there was nothing to look at: then a clean table would be a lie."""
        return not (self.acknowledged and self.owed and self.delivered + self.failed_visibly)

    @property
    def is_settled(self) -> bool:
        """Whether all that was acknowledged has come to its end."""
        return not any((self.lost, self.undelivered, self.payments_lost, self.charged_twice))

    @property
    def wrong(self) -> dict[str, int]:
        """What must not be and is, with its count. A delivery may fail in public, but no row gives it cause to."""
        return {count: found for count in WRONG if (found := getattr(self, count))}

    @property
    def is_clean(self) -> bool:
        """Whether there was something to look at, and nothing is wrong."""
        return not self.is_void and not self.wrong

    def blame(self, what: str, examples: Iterable[object]) -> int:
        """Count, and keep the first few as examples."""
        found = list(examples)
        self.examples += [f"{what}: {example}" for example in found[:3]]
        return len(found)

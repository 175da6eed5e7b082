"""What the auditor has found in one row."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


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
    def is_clean(self) -> bool:
        """Whether nothing is wrong. A delivery may fail in public, but no row gives it cause to."""
        return self.is_settled and not any(
            (
                self.is_void, self.applied_twice, self.duplicates_unexplained, self.ghosts_denied, self.dead_letters,
                self.uncommitted, self.unverified, self.wrongly_refused, self.refunded_twice, self.failed_visibly,
            )
        )  # fmt: skip

    def blame(self, what: str, examples: Iterable[object]) -> int:
        """Count, and keep the first few as examples."""
        found = list(examples)
        self.examples += [f"{what}: {example}" for example in found[:3]]
        return len(found)

"""Every row, in the order in which it runs."""

from tests.faults import broker_faults, database_faults, life_faults, link_faults, poison_faults, process_faults
from tests.faults.row import Fault

ROWS: tuple[Fault, ...] = (
    *process_faults.FAULTS,
    *life_faults.FAULTS,
    *broker_faults.FAULTS,
    *database_faults.FAULTS,
    *link_faults.FAULTS,
    *poison_faults.FAULTS,
)


def chosen(words: list[str], *, is_long: bool) -> list[Fault]:
    """The rows whose names hold one of the words; without words, those of the programme."""
    if words:
        return [row for row in ROWS if any(word in row.name for word in words)]
    return [row for row in ROWS if is_long or not row.is_long]

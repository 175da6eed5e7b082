"""Every row, in the order in which it runs."""

from tests.faults import (
    broker_faults,
    database_faults,
    life_faults,
    link_faults,
    payment_faults,
    poison_faults,
    process_faults,
)
from tests.faults.row import Fault

ROWS: tuple[Fault, ...] = (
    *process_faults.FAULTS,
    *life_faults.FAULTS,
    *broker_faults.FAULTS,
    *database_faults.FAULTS,
    *link_faults.FAULTS,
    *poison_faults.FAULTS,
    *payment_faults.FAULTS,
)

# About how long the slow ones take, with what they leave behind; they run first, so that all lanes end together.
LASTS_S = {
    "database read-only": 40,
    "session_worker: commit without an answer": 35,
    "callback_worker: commit without an answer": 35,
    "link session worker-database half open": 34,
    "link callback worker-database half open": 34,
    "broker kill -9": 30,
    "database locks stick every batch": 28,
    "message that kills its session_worker": 45,
    "payment command that kills its session_worker": 45,
    "message that kills its callback_worker": 45,
    "database away for 12 s": 24,
    "broker restart": 22,
    "broker stop_app, start_app": 22,
    "rolling restart of everything": 20,
    "broker memory alarm": 18,
    "broker disk alarm": 18,
    "link session worker-broker half open": 16,
    "link session worker-broker cut": 16,
    "queue callback_worker.events deleted": 16,
    "callback_worker sleeps through its leases": 16,
    "crash session_worker.between_ack_and_publish": 15,
    "crash callback_worker.between_commit_and_post": 15,
    "crash callback_worker.between_post_and_result": 15,
    "all broker connections closed": 15,
    "kill -9 callback_worker": 14,
    "broker queue full": 12,
}
OTHERS_LAST_S = 5


def lasts_s(row: Fault) -> float:
    """About how long the row takes."""
    return LASTS_S.get(row.name, OTHERS_LAST_S)


def chosen(words: list[str], *, is_long: bool) -> list[Fault]:
    """The rows whose names hold one of the words; without words, those of the programme."""
    if words:
        return [row for row in ROWS if any(word in row.name for word in words)]
    return [row for row in ROWS if is_long or not row.is_long]

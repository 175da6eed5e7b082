"""The document of states says what the rules do, and a sentence for every reason."""

from pathlib import Path

import pytest

from session_worker.reasons import REASON_SENTENCES, REVIEW_SENTENCES
from session_worker.session import Reason, Review
from session_worker.situations import PENDING, Transition, situations, transitions
from session_worker.states_document import RENEW, document
from shared.resources import Phase

COMMITTED = Path(__file__).resolve().parents[2] / "docs/session-states.md"


def rows(command: str, begin: str) -> list[Transition]:
    return [row for row in transitions() if row.command == command and begin in row.froms]


def test_the_committed_document_is_what_the_rules_do() -> None:
    assert COMMITTED.read_text() == document(), f"the rules have changed; renew the document: {RENEW}"


def test_every_reason_has_a_sentence() -> None:
    assert set(REASON_SENTENCES) == set(Reason)
    assert set(REVIEW_SENTENCES) == set(Review)
    assert all(sentence.endswith(".") for sentence in (*REASON_SENTENCES.values(), *REVIEW_SENTENCES.values()))


@pytest.mark.parametrize("command", ["start", "request", "stop", "cancel", "meter"])
def test_every_command_has_an_end_in_every_situation(command: str) -> None:
    for situation in situations():
        assert rows(command, situation.name), situation.name


def test_every_review_can_be_seen_in_the_table() -> None:
    said = " ".join(row.result.outcome for row in transitions())
    assert {review for review in Review if f"(review {review})" not in said} == set()


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.CANCELLED])
def test_no_command_leads_out_of_an_end(phase: Phase) -> None:
    assert {row.result.to for row in transitions() if str(phase) in row.froms} == {"unchanged"}


def test_a_verdict_comes_for_pending_requests_only_and_silence_ends_sessions_only() -> None:
    assert {row.froms for row in transitions() if row.command == "verdict"} == {(PENDING,)}
    (silent,) = [row for row in transitions() if row.command == "24 h of silence"]
    assert (silent.froms, silent.result.to) == (("STARTING", "ACTIVE", "STOPPING"), "COMPLETED")


def test_guards_with_one_end_are_one_row() -> None:
    """A table that repeats itself is not read."""
    keys = [(row.command, row.guards, row.result) for row in transitions()]
    assert len(keys) == len(set(keys))

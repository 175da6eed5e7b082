"""Manual attempts are numbered like any other, and take no place in the schedule."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from callback_worker.delivery import Attempt, Next, Outcome, Result, next_state
from shared.callbacks import Reason, State

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SCHEDULE_S = (0.0, 5.0, 300.0)


def following(number: int, manual_count: int, result: Result) -> Next:
    attempt = Attempt(
        callback_id=UUID(int=1), event_id=UUID(int=2), number=number, manual_count=manual_count,
        url="http://a.example/", destination="a.example:80", body="{}",
        expires_at=NOW + timedelta(days=3), leased_until=NOW + timedelta(seconds=25),
    )  # fmt: skip
    return next_state(attempt, result, SCHEDULE_S, now=NOW, chance=0.0)


@pytest.mark.parametrize("manual_count", [0, 1, 7])
def test_the_schedule_counts_scheduled_attempts_alone(manual_count: int) -> None:
    """Whatever was made by hand in between."""
    failed = Result(outcome=Outcome.SERVER_ERROR, duration_ms=1, status_code=500)
    for place, wanted in (
        (1, Next(State.PENDING, next_attempt_at=NOW + timedelta(seconds=5))),
        (2, Next(State.PENDING, next_attempt_at=NOW + timedelta(seconds=300))),
        (3, Next(State.FAILED, Reason.EXHAUSTED)),
    ):
        assert following(place + manual_count, manual_count, failed) == wanted


@pytest.mark.parametrize("manual_count", [0, 1, 7])
def test_two_scheduled_attempts_are_what_a_refusal_gets(manual_count: int) -> None:
    refused = Result(outcome=Outcome.REFUSED_STATUS, duration_ms=1, status_code=404)
    assert following(1 + manual_count, manual_count, refused).state is State.PENDING
    assert following(2 + manual_count, manual_count, refused) == Next(State.FAILED, Reason.REJECTED)

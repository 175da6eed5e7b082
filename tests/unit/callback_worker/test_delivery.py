"""The rules of a delivery: what each result means and when the next attempt is made."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callback_worker.delivery import (
    MAX_JITTER,
    Attempt,
    Next,
    Outcome,
    Result,
    next_state,
    outcome_of,
    parse_retry_after,
)
from shared.callbacks import Reason, State

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0)
EXPIRES_S = 259_200.0


def attempt(number: int = 1, *, left_s: float = EXPIRES_S) -> Attempt:
    return Attempt(
        callback_id=UUID(int=1), event_id=UUID(int=2), number=number, url="http://a.example/",
        destination="a.example:80", body="{}",
        expires_at=NOW + timedelta(seconds=left_s), leased_until=NOW + timedelta(seconds=25),
    )  # fmt: skip


def answer(status: int, *, retry_after_s: float | None = None) -> Result:
    return Result(outcome=outcome_of(status), duration_ms=1, status_code=status, retry_after_s=retry_after_s)


def failure(outcome: Outcome) -> Result:
    return Result(outcome=outcome, duration_ms=1, error="it broke")


def following(result: Result, number: int = 1, *, left_s: float = EXPIRES_S, chance: float = 0.0) -> Next:
    return next_state(attempt(number, left_s=left_s), result, SCHEDULE_S, now=NOW, chance=chance)


def after(seconds: float) -> Next:
    return Next(State.PENDING, next_attempt_at=NOW + timedelta(seconds=seconds))


REJECTED = Next(State.FAILED, Reason.REJECTED)
GONE = Next(State.FAILED, Reason.GONE)
DELIVERED = Next(State.DELIVERED)

BY_STATUS = [
    (200, DELIVERED, DELIVERED), (204, DELIVERED, DELIVERED), (299, DELIVERED, DELIVERED),
    (300, REJECTED, REJECTED), (302, REJECTED, REJECTED), (308, REJECTED, REJECTED),
    (400, after(5), REJECTED), (401, after(5), REJECTED), (404, after(5), REJECTED), (499, after(5), REJECTED),
    (408, after(5), after(300)), (425, after(5), after(300)), (429, after(5), after(300)),
    (410, GONE, GONE),
    (500, after(5), after(300)), (501, after(5), after(300)), (503, after(5), after(300)), (599, after(5), after(300)),
    (101, after(5), after(300)), (600, after(5), after(300)), (999, after(5), after(300)),
]  # fmt: skip


@pytest.mark.parametrize(("status", "first", "second"), BY_STATUS)
def test_the_status_line_decides(status: int, first: Next, second: Next) -> None:
    """2xx delivers, 410 ends, 408, 425, 429, 5xx follow the schedule, other 4xx get two, 3xx is final."""
    assert following(answer(status), 1) == first
    assert following(answer(status), 2) == second


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.TIMEOUT_DNS, Outcome.TIMEOUT_CONNECT, Outcome.TIMEOUT_TLS, Outcome.TIMEOUT_RESPONSE,
        Outcome.DNS, Outcome.CONNECTION, Outcome.TLS, Outcome.PROTOCOL, Outcome.TOO_LARGE,
    ],
)  # fmt: skip
def test_a_network_failure_follows_the_schedule_to_its_end(outcome: Outcome) -> None:
    """The wait before attempt n + 1 is the schedule's; after the last one the delivery is exhausted."""
    waits = [following(failure(outcome), number) for number in (1, 2, 3, 4)]
    assert waits == [after(5), after(300), after(1800), Next(State.FAILED, Reason.EXHAUSTED)]


def test_a_blocked_destination_fails_at_once() -> None:
    """Policy does not change by waiting."""
    assert following(failure(Outcome.BLOCKED)) == Next(State.FAILED, Reason.BLOCKED)


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"),
    [(0, 5), (4, 5), (60, 60), (86_400, 86_400), (172_800, 172_800), (EXPIRES_S - 1, EXPIRES_S - 1)],
)
def test_retry_after_is_a_floor_however_high(retry_after_s: float, wait_s: float) -> None:
    """It never shortens the schedule's wait."""
    assert following(answer(503, retry_after_s=retry_after_s)) == after(wait_s)


@pytest.mark.parametrize(("left_s", "retry_after_s"), [(60, 45), (30, 20), (12, 11.5)])
def test_retry_after_is_waited_for_close_to_the_end_as_well(left_s: float, retry_after_s: float) -> None:
    """However little is left, and however little a delivery has in all."""
    assert following(answer(429, retry_after_s=retry_after_s), left_s=left_s) == after(retry_after_s)


@pytest.mark.parametrize("retry_after_s", [600, 3600, 10 * 365 * 86_400, 1e300, math.inf])
@pytest.mark.parametrize("status", [404, 429, 503])
def test_a_subscriber_that_asks_for_more_patience_than_is_left_gets_no_earlier_attempt(
    status: int, retry_after_s: float
) -> None:
    """The failure is visible at once, and can be sent again."""
    assert following(answer(status, retry_after_s=retry_after_s), left_s=600) == Next(State.FAILED, Reason.EXPIRED)


def test_a_retry_that_would_come_after_the_expiry_is_not_waited_for() -> None:
    """The failure is visible at once."""
    assert following(answer(500), 3, left_s=1800) == Next(State.FAILED, Reason.EXPIRED)


@given(
    status=st.integers(100, 999), number=st.integers(1, 12), left_s=st.floats(-10, EXPIRES_S),
    chance=st.floats(0, 1, exclude_max=True), retry_after_s=st.none() | st.floats(0, EXPIRES_S) | st.floats(0),
)  # fmt: skip
def test_whatever_comes_the_next_attempt_is_within_schedule_and_expiry(
    status: int, number: int, left_s: float, chance: float, retry_after_s: float | None
) -> None:
    """Never earlier than schedule and Retry-After, never past the expiry; jitter upwards by a tenth at most."""
    result = following(answer(status, retry_after_s=retry_after_s), number, left_s=left_s, chance=chance)
    assert (result.state is State.PENDING) == (result.next_attempt_at is not None)
    assert (result.state is State.FAILED) == (result.reason is not None)
    if result.next_attempt_at is not None:
        wait_s = (result.next_attempt_at - NOW).total_seconds()
        most_s = max(SCHEDULE_S[number] * (1 + MAX_JITTER), retry_after_s or 0)
        assert max(SCHEDULE_S[number], retry_after_s or 0) - 1e-5 <= wait_s <= most_s + 1e-5
        assert wait_s <= left_s + 1e-5


RETRY_AFTER = [
    (None, None), ("0", 0), (" 120 ", 120), ("172800", 172_800), ("1" + "0" * 15, 1e15), ("9" * 5000, math.inf),
    ("-5", None), ("1.5", None), ("soon", None), ("", None), ("١٢", None), ("\x00", None),
    (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
    (format_datetime(NOW - timedelta(seconds=90), usegmt=True), None),
    ("Mon, 99 Foo 2026 12:00:00 GMT", None), ("Fri, 31 Dec 9999 23:59:59 -2359", 251_624_491_139),
]  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_ignored(value: str | None, seconds: float | None) -> None:
    """RFC 9110 §10.2.3; a date in the past asks for nothing."""
    found = parse_retry_after(value, NOW)
    assert found == seconds


@given(st.text())
def test_no_retry_after_breaks_the_parser(value: str) -> None:
    """It comes from outside."""
    found = parse_retry_after(value, NOW)
    assert found is None or found >= 0

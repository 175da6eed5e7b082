"""When a host's breaker opens, whom it lets through, and what closes it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callback_worker.breaker import (
    AT_ONCE_LASTING_S,
    DELIVERIES_TO_OPEN,
    FAILURES_AT_ONCE,
    FAILURES_TO_OPEN,
    LASTING_S,
    OPEN_FIRST_S,
    OPEN_JITTER,
    OPEN_MOST_S,
    WINDOW_S,
    Health,
    Sign,
    after,
    is_failure,
    is_forgotten,
)
from callback_worker.delivery import Outcome

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def failed(delivery: int = 0, *, lasted_s: float = 0.0) -> Sign:
    return Sign(UUID(int=delivery), True, lasted_s)


def answered(delivery: int = 0) -> Sign:
    return Sign(UUID(int=delivery), False, 0.0)


def unsent(delivery: int = 0) -> Sign:
    return Sign(UUID(int=delivery), None, 0.0)


def told(health: Health | None, *signs: Sign, now_s: float, chance: float = 0.0) -> Health | None:
    return after(health, signs, now=at(now_s), chance=chance)


def story(steps: list[tuple[float, Sign]]) -> Health | None:
    """What is known after these signs at these seconds."""
    health = None
    for now_s, sign in steps:
        health = told(health, sign, now_s=now_s)
    return health


def opened() -> Health:
    """A host whose breaker opened at second 20, for a second."""
    found = story([(number + 1, failed(number)) for number in range(FAILURES_TO_OPEN)])
    assert found is not None
    assert found.open_until == at(20 + OPEN_FIRST_S)
    return found


def probed(health: Health, delivery: int, *, until_s: float = 100) -> Health:
    """As the claim marks it."""
    return Health(
        window_ends_at=health.window_ends_at, open_count=health.open_count, open_until=health.open_until,
        probe_id=UUID(int=delivery), probe_until=at(until_s),
    )  # fmt: skip


def stream(count: int, deliveries: int, *, over_s: float, lasted_s: float = 0.0) -> list[tuple[float, Sign]]:
    """So many failures of so many deliveries, evenly over the time."""
    return [
        (over_s * number / max(1, count - 1), failed(number % deliveries, lasted_s=lasted_s)) for number in range(count)
    ]


def mixed(every: int, *, over_s: float) -> list[tuple[float, Sign]]:
    """Sixty attempts over the time, of which each so-manieth is answered."""
    signs = [failed(number) if number % every else answered(number) for number in range(60)]
    return [(over_s * number / 59, sign) for number, sign in enumerate(signs)]


def chaos(count: int, *, over_s: float, retry_after_s: float) -> list[tuple[float, Sign]]:
    """So many deliveries over the time; each fails once."""
    times_s = [(number, over_s * number / count) for number in range(count)]
    firsts = [(at_s, failed(number)) for number, at_s in times_s]
    return [*firsts, *((at_s + retry_after_s, answered(number)) for number, at_s in times_s)]


ENOUGH, MANY, LONG_S = FAILURES_TO_OPEN, DELIVERIES_TO_OPEN, LASTING_S
STORIES = [
    ("a host that fails for long, many of many deliveries", stream(ENOUGH, MANY, over_s=LONG_S), True),
    ("one that hung all that time, although all tell at once", stream(ENOUGH, MANY, over_s=0, lasted_s=LONG_S), True),
    ("too few failures", stream(ENOUGH - 1, MANY, over_s=LONG_S), False),
    ("too few deliveries", stream(10 * ENOUGH, MANY - 1, over_s=LONG_S), False),
    ("not for long", stream(FAILURES_AT_ONCE - 1, 1000, over_s=LONG_S - 0.1), False),
    ("not for long, but a backlog", stream(FAILURES_AT_ONCE, 1000, over_s=AT_ONCE_LASTING_S), True),
    ("a backlog for the time of a short schedule", stream(1000, 1000, over_s=AT_ONCE_LASTING_S - 0.1), False),
    ("a backlog of one delivery cannot be", stream(FAILURES_AT_ONCE, 1, over_s=0), False),
    ("an answer amid the failures, early", [*stream(9, 9, over_s=1), (2, answered()), *stream(9, 9, over_s=1)], False),
    ("too slow to matter", stream(ENOUGH, ENOUGH, over_s=WINDOW_S * 3), False),
    ("an answer to every eighth", mixed(9, over_s=25), True),
    ("an answer to every third", mixed(4, over_s=25), False),
    ("an answer to every eighth, not for long", mixed(9, over_s=LONG_S - 0.1), False),
    ("every first attempt fails, every second does not", chaos(150, over_s=3, retry_after_s=1), False),
]  # fmt: skip


@pytest.mark.parametrize(("what", "steps", "opens"), STORIES, ids=[what for what, _, _ in STORIES])
def test_it_opens_for_many_lasting_failures_of_many_deliveries_and_for_nothing_else(
    what: str, steps: list[tuple[float, Sign]], opens: bool
) -> None:
    """In a streak without an answer, or by their share of a window."""
    health = None
    was_open = False
    for now_s, sign in sorted(steps, key=lambda step: step[0]):
        health = told(health, sign, now_s=now_s)
        was_open |= health is not None and health.open_until is not None
    assert was_open == opens


@given(st.lists(st.floats(0, 400), max_size=60), st.integers(1, DELIVERIES_TO_OPEN - 1))
def test_few_deliveries_keep_their_schedule_whatever_it_is(times_s: list[float], deliveries: int) -> None:
    """The contract's schedule holds for a delivery on an otherwise idle host."""
    steps = [(now_s, failed(number % deliveries)) for number, now_s in enumerate(sorted(times_s))]
    health = story(steps)
    assert health is None or health.open_until is None


def test_many_deliveries_keep_a_schedule_that_is_over_soon() -> None:
    """A thousand callbacks to one dead port, with attempts at 0, 1, 2 and 4 s: no breaker comes between."""
    health = None
    for now_s in (0, 1, 2, 4):
        health = told(health, *(failed(number) for number in range(1000)), now_s=now_s)
        assert health is not None
        assert health.open_until is None


def test_the_time_it_stays_open_doubles_with_each_failed_probe_up_to_a_quarter_of_a_minute() -> None:
    """So a host that is down for a moment is noticed at once, and one that is down for long within 15 s."""
    health, now_s, waits = opened(), 21.0, []
    for number in range(9):
        following = told(probed(health, number), failed(number), now_s=now_s)
        assert following is not None
        assert following.open_until is not None
        waits.append((following.open_until - at(now_s)).total_seconds())
        assert (following.probe_id, following.probe_until) == (None, None)
        health, now_s = following, now_s + waits[-1]
    assert waits == [2, 4, 8, *[OPEN_MOST_S] * 6]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10_000))
def test_jitter_only_shortens_and_no_count_overflows(chance: float, open_count: int) -> None:
    """The bound is a bound."""
    before = Health(window_ends_at=at(0), open_count=open_count, open_until=at(0), probe_id=UUID(int=7))
    following = told(before, failed(7), now_s=0, chance=chance)
    assert following is not None
    assert following.open_until is not None
    most_s = min(OPEN_MOST_S, OPEN_FIRST_S * 2 ** min(open_count, 10))
    open_s = (following.open_until - at(0)).total_seconds()
    assert most_s * (1 - OPEN_JITTER) - 1e-6 <= open_s <= most_s


def test_a_probe_that_is_answered_leaves_nothing_against_the_host() -> None:
    """All that waits is sent, up to its cap, and it takes as much as ever to open again."""
    assert told(probed(opened(), 5), answered(5), now_s=22) is None


def test_only_the_probe_finds_out() -> None:
    """What was in flight when it opened, or is sent by hand, changes nothing."""
    before = probed(opened(), 5)
    assert told(before, answered(6), failed(7), unsent(8), now_s=22) == before


def test_a_probe_that_was_not_sent_lets_another_one_find_out() -> None:
    """The address policy forbade it: that says nothing about the host."""
    following = told(probed(opened(), 5), unsent(5), now_s=22)
    assert following is not None
    assert (following.open_until, following.probe_id) == (opened().open_until, None)


def test_a_healthy_host_has_no_record() -> None:
    """Answers and what was not sent make none."""
    assert told(None, answered(), unsent(), answered(), now_s=0) is None


def test_old_failures_are_forgotten() -> None:
    """A window after the last one's end; while open, they are not."""
    health = story(stream(ENOUGH - 1, MANY, over_s=9))
    assert health is not None
    assert not is_forgotten(health, at(2 * WINDOW_S - 0.1))
    assert is_forgotten(health, at(2 * WINDOW_S))
    assert not is_forgotten(opened(), at(10**6))
    again = told(health, failed(99), now_s=2 * WINDOW_S)
    assert again is not None
    assert (again.streak_count, again.failure_count) == (1, 1)


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.integers(0, 30), st.sampled_from([True, True, True, False, None])), max_size=300
    )
)
def test_whatever_comes_its_record_stays_small_and_sound(steps: list[tuple[float, int, bool | None]]) -> None:
    """A row of bounded size, with counts that add up."""
    health, now_s = None, 0.0
    for wait_s, delivery, outcome in steps:
        now_s += wait_s
        health = told(health, Sign(UUID(int=delivery), outcome, 0.1), now_s=now_s)
        if health is None:
            continue
        assert len(health.failing_ids) <= min(health.failure_count, DELIVERIES_TO_OPEN)
        assert health.streak_count == 0 or health.streak_began_at is not None
        assert health.open_until is None or health.open_count > 0


def test_a_refusal_is_an_answer_and_what_was_not_sent_says_nothing() -> None:
    """Every outcome is sorted."""
    answers = {Outcome.DELIVERED, Outcome.REFUSED_STATUS}
    silent = {Outcome.OPEN, Outcome.AMBIGUOUS, Outcome.NOT_MADE, Outcome.BLOCKED}
    for outcome in Outcome:
        assert is_failure(outcome) is (None if outcome in silent else outcome not in answers)

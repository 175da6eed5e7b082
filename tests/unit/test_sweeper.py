"""One duty that fails holds up no other, and shows."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from session_worker.apply import Policy
from session_worker.sweeper import OUTBOX_STUCK_AFTER_S, SETTLING, Sweeper
from shared.loops import STUCK_AFTER_S, Turns
from shared.outages import SETTLING_S
from tests.builders import NOW, Seconds


class Duties(Sweeper):
    """A sweeper with a duty that fails, and one that does not."""

    def __init__(self, error: Exception) -> None:
        nobody = cast("Any", None)
        super().__init__(nobody, nobody, nobody, policy=Policy(), authorizer=None, clock=nobody)
        self._error = error
        self.done = 0

    def _duties(self) -> Sequence[Callable[[], Awaitable[int]]]:
        return (self._fail, self._do)

    async def _fail(self) -> int:
        raise self._error

    async def _do(self) -> int:
        self.done += 1
        return 1


class FakeClock:
    """The database's time, as a test sets it."""

    def __init__(self) -> None:
        self.at = NOW

    async def ask(self) -> None:
        """Nobody is asked."""

    def now(self) -> datetime:
        return self.at


@pytest.mark.parametrize(("error", "done"), [(KeyError("a fault of ours"), 1), (ConnectionRefusedError(), 0)])
async def test_the_duties_after_one_that_fails_are_done_but_in_an_outage(error: Exception, done: int) -> None:
    """In an outage each would wait for the same."""
    sweeper = Duties(error)
    assert await sweeper.run_once() == done
    assert sweeper.done == done


async def test_after_an_outage_nothing_is_ended_before_all_workers_are_back() -> None:
    """A stop may be in the hands of one that waits for its next try."""
    sweeper, clock = Duties(KeyError()), FakeClock()
    sweeper._clock = cast("Any", clock)
    sweeper._is_away = True
    await sweeper._ask_time()
    clock.at += SETTLING - timedelta(seconds=1)
    assert (await sweeper._end_stale(), await sweeper._refuse_expired()) == (0, 0)
    clock.at += timedelta(seconds=1)
    with pytest.raises(AttributeError, match="begin"):  # it goes to the database, which is nobody here
        await sweeper._end_stale()


@pytest.mark.parametrize(("after_s", "is_ever"), [(-1, True), (0, False), (SETTLING_S - 1, False), (SETTLING_S, True)])
async def test_what_expired_before_the_process_began_is_refused_once_all_are_back(
    after_s: float, is_ever: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, too, where the database's clock was set back meanwhile."""
    asked: list[datetime] = []

    async def refuse_expired(_: object, *, after: datetime, now: datetime, most: int) -> tuple[tuple[()], None]:
        asked.append(after)
        return (), None

    monkeypatch.setattr("session_worker.sweeper.refuse_expired", refuse_expired)
    sweeper, clock = Duties(KeyError()), FakeClock()
    sweeper._clock = cast("Any", clock)
    await sweeper._ask_time()
    clock.at += timedelta(seconds=after_s)
    assert await sweeper._refuse_expired() == 0
    assert [after < NOW for after in asked] == [is_ever]


@pytest.mark.parametrize(("error", "says_so"), [(ConnectionRefusedError(), True), (PoolTimeout(), False)])
async def test_a_database_that_was_only_slow_was_not_away(error: Exception, says_so: bool) -> None:
    sweeper = Duties(error)
    await sweeper.run_once()
    assert sweeper._is_away is says_so


async def test_a_duty_that_fails_every_time_shows() -> None:
    sweeper, clock = Duties(KeyError("a fault of ours")), Seconds()
    sweeper.turns = Turns("sweeping", now_s=clock)
    for _ in range(2):
        with sweeper.turns.turn():
            await sweeper.run_once()
        clock.now_s += STUCK_AFTER_S + 1
    assert sweeper.turns.fault() == "sweeping has failed for 21 s"


def test_events_that_have_just_been_committed_are_no_fault() -> None:
    sweeper = Duties(KeyError())
    sweeper._oldest_s = OUTBOX_STUCK_AFTER_S
    assert sweeper.outbox_fault() is None
    sweeper._oldest_s += 1
    assert sweeper.outbox_fault() == "committed events have waited to be published for 26 s"

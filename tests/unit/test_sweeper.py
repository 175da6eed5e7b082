"""One duty that fails holds up no other, and shows."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from session_worker.apply import Policy
from session_worker.sweeper import OUTBOX_STUCK_AFTER_S, SETTLING, Sweeper
from shared.loops import STUCK_AFTER_S, Turns
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

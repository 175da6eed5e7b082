"""The database's time from its answers: how wrong it may be, what moves it, and what is said about clocks."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from shared.clock import now_utc
from shared.database_clock import OFF_S, STEP_S, DatabaseClock, elapsed_s

EPOCH = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass
class World:
    """One true time, counted from the process's start; the database's clock and the process's own may be off."""

    true_s: float = 0.0
    database_off_s: float = 0.0
    own_off_s: float = 0.0
    way_there_s: float = 0.0
    way_back_s: float = 0.0
    steps: list[float] = field(default_factory=list)

    def elapsed_s(self) -> float:
        return 700.0 + self.true_s

    def own(self) -> datetime:
        return EPOCH + timedelta(seconds=self.true_s + self.own_off_s)

    def database(self) -> datetime:
        return EPOCH + timedelta(seconds=self.true_s + self.database_off_s)

    # As much of an engine as is used.

    def execution_options(self, **_: object) -> Any:
        return self

    def connect(self) -> Any:
        return self

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def execute(self, _: object) -> Any:
        self.true_s += self.way_there_s
        told = self.database()
        self.true_s += self.way_back_s
        return Answer(told)


@dataclass
class Answer:
    at: datetime

    def scalar_one(self) -> datetime:
        return self.at


def clock_in(world: World) -> DatabaseClock:
    clock = DatabaseClock(cast("AsyncEngine", world), elapsed_s=world.elapsed_s, own=world.own)
    clock.on_step = lambda: world.steps.append(world.true_s)
    return clock


def off_s(clock: DatabaseClock, world: World) -> float:
    """How wrong it is."""
    return (clock.now() - world.database()).total_seconds()


@pytest.fixture
def said() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def test_a_wrong_own_clock_changes_nothing() -> None:
    """Whatever it says, and whenever it is set."""
    world = World(own_off_s=3600)
    clock = clock_in(world)
    await clock.ask()
    assert off_s(clock, world) == pytest.approx(0)
    world.own_off_s = -3600
    world.true_s += 50
    assert off_s(clock, world) == pytest.approx(0)


async def test_the_time_goes_on_without_the_database() -> None:
    """An outage, or a process that is stopped, of an hour."""
    world = World(database_off_s=-20)
    clock = clock_in(world)
    await clock.ask()
    world.true_s += 3600
    assert off_s(clock, world) == pytest.approx(0)


@pytest.mark.parametrize("days", [3.0, -3.0])
async def test_a_leap_of_the_databases_clock_is_remembered_for_a_day(days: float) -> None:
    """By a clock that does not leap with it. A step of an hour is none."""
    world = World()
    clock = clock_in(world)
    await clock.ask()
    world.database_off_s += 3600
    await clock.ask()
    assert not clock.has_leapt()
    world.database_off_s += days * 86_400
    world.own_off_s = world.database_off_s
    await clock.ask()
    assert clock.has_leapt()
    world.true_s += 86_399
    assert clock.has_leapt()
    world.true_s += 1
    assert not clock.has_leapt()


async def test_before_the_first_answer_it_is_the_own_clock_and_nobody_is_told() -> None:
    """A drain ends the wait."""
    world = World(own_off_s=7)
    clock, drain = clock_in(world), asyncio.Event()
    assert clock.now() == world.own()
    waiting = asyncio.create_task(clock.told(drain))
    await asyncio.sleep(0)
    assert not waiting.done()
    drain.set()
    assert not await waiting


async def test_whoever_waits_is_told_with_the_first_answer() -> None:
    clock = clock_in(World())
    waiting = asyncio.create_task(clock.told(asyncio.Event()))
    await clock.ask()
    assert await waiting


async def test_a_slow_first_answer_is_wrong_by_half_its_way_at_most_and_the_next_quick_one_mends_it() -> None:
    """All of its two seconds were the way back."""
    world = World(way_back_s=2.0)
    clock = clock_in(world)
    await clock.ask()
    assert off_s(clock, world) == pytest.approx(-1.0)
    world.way_back_s = 0.002
    await clock.ask()
    assert abs(off_s(clock, world)) <= 0.002
    assert world.steps == []


async def test_a_slow_answer_spoils_no_better_one() -> None:
    """Also where the process was stopped for an hour between question and answer."""
    world = World()
    clock = clock_in(world)
    await clock.ask()
    world.way_there_s, world.way_back_s = 0.1, 3600
    await clock.ask()
    assert off_s(clock, world) == pytest.approx(0)


@given(
    first=st.floats(0, 20), ways=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), max_size=8),
    drift_s=st.floats(-0.01, 0.01),
)  # fmt: skip
def test_it_is_never_more_wrong_than_the_quickest_answer_was_slow(
    first: float, ways: list[tuple[float, float]], drift_s: float
) -> None:
    """Quartz drifts between answers; each of them bounds what is told."""
    world = World(way_there_s=first)

    async def ask_all() -> None:
        clock = clock_in(world)
        await clock.ask()
        worst_s = first / 2
        for there_s, back_s in ways:
            world.database_off_s += drift_s
            world.way_there_s, world.way_back_s = there_s, back_s
            await clock.ask()
            worst_s = min(worst_s + abs(drift_s), there_s + back_s)
            assert abs(off_s(clock, world)) <= worst_s + 1e-3

    asyncio.run(ask_all())


@pytest.mark.parametrize("step_s", [3600, -3600, 2 * STEP_S])
async def test_a_step_of_the_databases_clock_is_followed_and_told(step_s: float, said: list[Any]) -> None:
    """A failover to a host whose clock differs is the same."""
    world = World(own_off_s=0)
    clock = clock_in(world)
    await clock.ask()
    world.true_s, world.database_off_s, world.own_off_s = 30, step_s, step_s
    await clock.ask()
    assert off_s(clock, world) == pytest.approx(0)
    assert world.steps == [30]
    [line] = said
    assert (line["event"], line["by_s"]) == ("database_clock_stepped", pytest.approx(step_s))


async def test_corrections_are_no_steps(said: list[Any]) -> None:
    """NTP slews, quartz drifts."""
    world = World()
    clock = clock_in(world)
    for _ in range(10):
        await clock.ask()
        world.database_off_s = world.own_off_s = world.own_off_s - STEP_S * 0.9
    assert (world.steps, said) == ([], [])


async def test_a_wrong_own_clock_is_said_once_for_each_change(said: list[Any]) -> None:
    """And that it is right again."""
    world = World(own_off_s=-3600)
    clock = clock_in(world)
    for own_off_s in (-3600, -3600 + OFF_S * 0.9, -1800, -1800, 0, OFF_S * 0.9):
        world.own_off_s = own_off_s
        await clock.ask()
    assert [(line["event"], line["ahead_s"]) for line in said] == [
        ("own_clock_differs", -3600), ("own_clock_differs", -1800), ("own_clock_differs", 0),
    ]  # fmt: skip


def test_what_counts_on_is_no_clock_that_is_set() -> None:
    """Neither is it the own clock under another name."""
    before = elapsed_s()
    assert 0 <= elapsed_s() - before < 5
    assert abs(elapsed_s() - now_utc().timestamp()) > 1e6

"""A loop that ends takes its process along; one that hangs, or achieves nothing, shows in the readiness check."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shared.loops import STUCK_AFTER_S, LoopEnded, Loops, Turns
from tests.builders import Seconds


async def returns() -> None:
    await asyncio.sleep(0)


async def raises() -> None:
    raise KeyError("a fault of ours")


async def leaves() -> None:
    raise SystemExit(1)


async def is_cancelled_by_a_library() -> None:
    raise asyncio.CancelledError


async def goes_on() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("end", [returns, raises, leaves, is_cancelled_by_a_library], ids=lambda each: each.__name__)
async def test_a_loop_that_ends_in_whatever_way_ends_all(end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A task group would take the first and the last for good ends."""
    ended: list[str] = []

    async def run() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            loops = Loops(tasks, asyncio.Event(), end_soon=lambda: ended.append("soon"))
            loops.start("the other", goes_on())
            loops.start("the one", end())

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert [str(each).split()[:2] for each in raised.value.exceptions] == [["the", "one"]]
    assert isinstance(raised.value.exceptions[0], LoopEnded)
    assert ended == ["soon"]


async def test_a_loop_may_return_once_the_drain_has_begun() -> None:
    ended: list[str] = []
    drain = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        loops = Loops(tasks, drain, end_soon=lambda: ended.append("soon"))
        drain.set()
        loops.start("the one", returns())
    assert ended == []


async def test_a_loop_that_we_cancel_ends_quietly() -> None:
    ended: list[str] = []
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        loops = Loops(tasks, asyncio.Event(), end_soon=lambda: ended.append("soon"))
        running = loops.start("the one", goes_on())
        await asyncio.sleep(0)
        running.cancel()
    assert ended == []


async def test_the_loops_say_which_of_them_are_stuck() -> None:
    clock = Seconds()
    async with asyncio.TaskGroup() as tasks:
        loops = Loops(tasks, asyncio.Event())
        turns = [Turns(name, now_s=clock) for name in ("claiming", "writing", "reading")]
        started = [loops.start(f"loop {number}", goes_on(), each) for number, each in enumerate(turns)]
        await asyncio.sleep(0)
        assert loops.fault() is None
        with turns[0].turn(), turns[1].turn():
            clock.now_s += STUCK_AFTER_S + 1
            assert loops.fault() == "claiming has been waiting for 21 s; writing has been waiting for 21 s"
        assert loops.fault() is None
        for each in started:
            each.cancel()


def test_a_loop_that_fails_turn_after_turn_is_a_fault() -> None:
    """Each turn is short, and none achieves anything; one that does ends it."""
    clock = Seconds()
    turns = Turns("claiming", now_s=clock)
    for _ in range(int(STUCK_AFTER_S) + 1):
        with pytest.raises(ValueError), turns.turn():  # noqa: PT011  # its own, below
            raise ValueError
        assert turns.fault() is None
        clock.now_s += 1
    with turns.turn():
        turns.fail()
    assert turns.fault() == "claiming has failed for 21 s"
    with turns.turn():
        pass
    assert turns.fault() is None


def test_one_failure_and_then_silence_is_no_fault() -> None:
    """Nothing may have come since."""
    clock = Seconds()
    turns = Turns("writing", now_s=clock)
    with turns.turn():
        turns.fail()
    clock.now_s += 1000
    assert turns.fault() is None


def test_a_turn_that_does_not_end_is_a_fault() -> None:
    """It waits for something that does not come."""
    clock = Seconds()
    turns = Turns("a batch", now_s=clock)
    with turns.turn():
        clock.now_s += STUCK_AFTER_S + 1
        assert turns.fault() == "a batch has been waiting for 21 s"
    assert turns.fault() is None


def test_of_turns_that_overlap_the_oldest_counts() -> None:
    """One that hangs is not hidden by those that end."""
    clock = Seconds()
    turns = Turns("an attempt", stuck_after_s=30, now_s=clock)
    with turns.turn():
        for _ in range(31):
            with turns.turn():
                clock.now_s += 1
        assert turns.fault() == "an attempt has been waiting for 31 s"
        with turns.turn():
            pass
        assert turns.fault() is not None
    assert turns.fault() is None


def test_turns_about_different_things_may_fail() -> None:
    """One payment that cannot be collected is no fault of the loop."""
    clock = Seconds()
    turns = Turns("a step", may_fail=True, now_s=clock)
    for _ in range(3):
        with pytest.raises(ValueError), turns.turn():  # noqa: PT011  # its own, below
            raise ValueError
        clock.now_s += STUCK_AFTER_S
    assert turns.fault() is None

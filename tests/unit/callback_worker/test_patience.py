"""What is waited for and what is not, and how a loop that achieves nothing shows in the readiness check."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.patience import SETTLING_S, STUCK_AFTER_S, Patience, Turns
from callback_worker.retries import Alarm, Retries
from callback_worker.slots import Slots
from shared.clock import now_utc
from shared.errors import Unavailable


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Engine:
    """A database that answers pings or does not."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def connect(self) -> Any:
        if not self.answers:
            raise ConnectionRefusedError
        return self

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def execute(self, _: object) -> None:
        return


def patience_with(engine: Engine, clock: Clock) -> Patience:
    return Patience(cast("AsyncEngine", engine), now_s=clock)


def raising(errors: Iterator[Exception]) -> Any:
    """Work that fails with each of the errors, then is done."""

    async def work() -> str:
        for error in errors:
            raise error
        return "done"

    return work


async def test_an_error_is_not_believed_while_the_database_answers_nothing() -> None:
    """A message must not be condemned for what a dying server says."""
    engine, clock = Engine(answers=False), Clock()
    waits = patience_with(engine, clock)
    assert await waits.until_done(raising(iter([ValueError()])), what="x", wanted=lambda: True) == "done"


async def test_an_error_of_its_own_is_raised_while_the_database_answers() -> None:
    """No wait would mend it."""
    waits = patience_with(Engine(answers=True), Clock())
    with pytest.raises(ValueError, match="own fault"):
        await waits.until_done(raising(iter([ValueError("own fault")])), what="x", wanted=lambda: True)


async def test_waiting_ends_when_nobody_wants_it_any_more() -> None:
    """A drain, or a broker that has given the messages to others."""
    waits = patience_with(Engine(answers=False), Clock())
    with pytest.raises(Unavailable):
        await waits.until_done(raising(iter([OSError()])), what="x", wanted=lambda: False)


async def test_the_database_is_settling_until_every_writer_has_had_its_longest_wait() -> None:
    """From the first failure on, and for some time from the first success after it."""
    clock = Clock()
    waits = patience_with(Engine(answers=True), clock)
    await waits.until_done(raising(iter([])), what="x", wanted=lambda: True)
    assert not waits.is_settling()
    seen = []

    async def work() -> None:
        seen.append(waits.is_settling())
        if len(seen) == 1:
            raise OSError

    await waits.until_done(work, what="x", wanted=lambda: True)
    assert seen == [False, True]
    clock.now_s += SETTLING_S - 1
    assert waits.is_settling()
    clock.now_s += 1
    assert not waits.is_settling()


def test_the_longest_reason_to_leave_leases_alone_counts() -> None:
    """A shorter one that follows does not end it."""
    clock = Clock()
    waits = patience_with(Engine(answers=True), clock)
    waits.settle(50)
    waits.settle(5)
    clock.now_s += 49
    assert waits.is_settling()
    clock.now_s += 1
    assert not waits.is_settling()


def test_a_loop_that_fails_turn_after_turn_is_a_fault() -> None:
    """Each turn is short, and none achieves anything; one that does ends it."""
    clock = Clock()
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
    clock = Clock()
    turns = Turns("writing", now_s=clock)
    with turns.turn():
        turns.fail()
    clock.now_s += 1000
    assert turns.fault() is None


def test_a_turn_that_does_not_end_is_a_fault() -> None:
    """It waits for something that does not come."""
    clock = Clock()
    turns = Turns("a batch", now_s=clock)
    with turns.turn():
        clock.now_s += STUCK_AFTER_S + 1
        assert turns.fault() == "a batch has been waiting for 21 s"
    assert turns.fault() is None


class Room:
    """A dispatcher with room."""

    def room(self) -> int:
        return 1

    def in_hand(self) -> set[object]:
        return set()


async def test_claims_that_always_fail_show_in_the_readiness_check() -> None:
    """The loop goes on, poll after poll."""
    clock, slots = Clock(), Slots(total=1, per_host=1)

    class Broken(Engine):
        def begin(self) -> Any:
            clock.now_s += STUCK_AFTER_S / 2 + 1
            failures.append(1)
            if len(failures) == 3:
                retries.stop()
            alarm.ring()
            raise RuntimeError("a fault of ours")

    failures: list[int] = []
    alarm = Alarm(now_utc)
    retries = Retries(
        patience_with(Broken(answers=True), clock), dispatcher=cast("Any", Room()), slots=slots,
        terms=cast("Any", Terms), alarm=alarm, clock=now_utc,
    )  # fmt: skip
    retries.turns = Turns("claiming due deliveries", now_s=clock)
    alarm.ring()
    await asyncio.wait_for(retries.run(), 5)
    assert retries.turns.fault() == "claiming due deliveries has failed for 22 s"


class Terms:
    """What the claim needs of the terms."""

    lease_s = 25.0

"""What is waited for and what is not, and how claims that achieve nothing show in the readiness check."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.patience import Patience
from callback_worker.retries import Alarm, Retries
from callback_worker.slots import Slots
from shared.clock import now_utc
from shared.errors import Unavailable
from shared.loops import STUCK_AFTER_S, Turns
from shared.outages import SETTLING_S
from tests.builders import Seconds


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


def patience_with(engine: Engine, clock: Seconds) -> Patience:
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
    engine, clock = Engine(answers=False), Seconds()
    waits = patience_with(engine, clock)
    assert await waits.until_done(raising(iter([ValueError()])), what="x", wanted=lambda: True) == "done"


async def test_an_error_of_its_own_is_raised_while_the_database_answers() -> None:
    """No wait would mend it."""
    waits = patience_with(Engine(answers=True), Seconds())
    with pytest.raises(ValueError, match="own fault"):
        await waits.until_done(raising(iter([ValueError("own fault")])), what="x", wanted=lambda: True)


async def test_waiting_ends_when_nobody_wants_it_any_more() -> None:
    """A drain, or a broker that has given the messages to others."""
    waits = patience_with(Engine(answers=False), Seconds())
    with pytest.raises(Unavailable):
        await waits.until_done(raising(iter([OSError()])), what="x", wanted=lambda: False)


async def test_the_database_is_settling_until_every_writer_has_had_its_longest_wait() -> None:
    """From the first failure on, and for some time from the first success after it."""
    clock = Seconds()
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
    clock = Seconds()
    waits = patience_with(Engine(answers=True), clock)
    waits.settle(50)
    waits.settle(5)
    clock.now_s += 49
    assert waits.is_settling()
    clock.now_s += 1
    assert not waits.is_settling()


class Room:
    """A dispatcher with room."""

    def room(self) -> int:
        return 1

    def in_hand(self) -> set[object]:
        return set()


async def test_claims_that_always_fail_show_in_the_readiness_check() -> None:
    """The loop goes on, poll after poll."""
    clock, slots = Seconds(), Slots(total=1, per_host=1)

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
    await asyncio.wait_for(retries.run(), 30)
    assert retries.turns.fault() == "claiming due deliveries has failed for 22 s"


class Terms:
    """What the claim needs of the terms."""

    lease_s = 25.0

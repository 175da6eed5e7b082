"""What the loop over events acknowledges, what it sets aside, and in which order it does things."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from callback_worker.birth import Births
from callback_worker.delivery import Terms
from callback_worker.hosts import Hosts
from callback_worker.intake import TRIES_ALONE, Intake
from callback_worker.patience import Patience
from callback_worker.slots import Slots
from shared.broker.consumer import Batch
from shared.broker.publisher import Outcome
from shared.errors import RejectCode, Unavailable
from shared.events import CALLBACK_URL, ReceivedEvent
from shared.messages import Inbound, Outgoing
from tests.builders import NOW, batch, inbound


class Channel:
    """Remembers what was acknowledged."""

    def __init__(self) -> None:
        self.is_closed = False
        self.acked: list[int] = []

    async def basic_ack(self, delivery_tag: int, *, multiple: bool) -> None:
        self.acked.append(delivery_tag)


class House:
    """Everything around the loop; `steps` is what it did to it, in order."""

    def __init__(self, *batches: Sequence[Inbound]) -> None:
        self.channel, self.drain = Channel(), asyncio.Event()
        self.batches = deque(batches)
        self.steps: list[tuple[str, int]] = []
        self.letters: list[Outgoing] = []
        self.on_register: Callable[[Sequence[ReceivedEvent]], None] = lambda _: None
        self.outcomes: Callable[[int], Outcome] = lambda _: Outcome.CONFIRMED

    async def run(self) -> None:
        part = cast("Any", self)
        await Intake(part, part, births=part, dispatcher=part, drain=self.drain, clock=lambda: NOW).run()

    async def take(self, _: int) -> Batch | None:
        return batch(self.batches.popleft(), self.channel) if self.batches else None

    async def register(self, events: Sequence[ReceivedEvent], _: object, *, wanted: Callable[[], bool]) -> list[str]:
        self.steps.append(("register", len(events)))
        self.on_register(events)
        if not wanted():
            raise Unavailable("given up")
        return ["attempt"] * len(events)

    def start(self, attempts: Sequence[str]) -> None:
        self.steps.append(("start", len(attempts)))

    async def publish(self, letters: Sequence[Outgoing], *, timeout_s: float) -> list[Outcome]:
        self.steps.append(("publish", len(letters)))
        self.letters += letters
        return [self.outcomes(number) for number in range(len(letters))]


def good(tag: int = 1) -> Inbound:
    headers = {CALLBACK_URL: "https://a.example/"}
    return inbound(b'{"type": "x"}', delivery_tag=tag, message={"headers": headers})


def bad(tag: int = 1) -> Inbound:
    return inbound(b"{nope", delivery_tag=tag)


async def test_no_later_ack_covers_a_batch_that_a_drain_abandoned() -> None:
    """The channel lives on, and an ack covers all before it: the loop ends instead."""
    house = House([good(1)], [good(2)])
    house.on_register = lambda _: house.drain.set()
    await house.run()
    assert house.channel.acked == []
    assert house.steps == [("register", 1)]


async def test_a_batch_abandoned_with_its_channel_does_not_end_the_loop() -> None:
    """What a dead channel held comes again on the next one."""
    house = House([good(1)], [good(2)])
    dead, house.channel = house.channel, house.channel

    def die(_: object) -> None:
        dead.is_closed = True
        house.channel = Channel()
        house.on_register = lambda _: None

    house.on_register = die
    await house.run()
    assert (dead.acked, house.channel.acked) == ([], [2])


async def test_good_events_are_sent_before_the_bad_ones_of_their_batch_are_set_aside() -> None:
    """And the dead letters go out in one publish."""
    house = House([bad(1), good(2), bad(3), good(4), bad(5)])
    await house.run()
    assert house.steps == [("register", 2), ("start", 2), ("publish", 3)]
    assert house.channel.acked == [5]


async def test_only_dead_letters_without_a_confirm_are_published_again() -> None:
    """Until the broker has them all; then the batch is acknowledged."""
    house = House([bad(1), bad(2), bad(3)])
    house.outcomes = lambda number: Outcome.UNROUTABLE if number and len(house.letters) <= 5 else Outcome.CONFIRMED
    await house.run()
    assert house.steps == [("publish", 3), ("publish", 2), ("publish", 1)]
    assert house.channel.acked == [3]


async def test_dead_letters_that_cannot_be_published_leave_the_batch_unacknowledged_at_a_drain() -> None:
    """They come again; the events that were sent are known by then."""
    house = House([bad(1), good(2)], [good(3)])

    def begin_drain(_: int) -> Outcome:
        house.drain.set()
        return Outcome.NOT_SENT

    house.outcomes = begin_drain
    await house.run()
    assert house.steps == [("register", 1), ("start", 1), ("publish", 1)]
    assert house.channel.acked == []


class Hostile(Mapping[str, object]):
    """Headers that break whoever reads them."""

    def __getitem__(self, _: str) -> object:
        raise RecursionError

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


async def test_a_message_that_breaks_its_reader_is_set_aside_and_its_neighbours_flow() -> None:
    """Whatever it raises."""
    house = House([inbound(b'{"type": "x"}', message={"headers": Hostile()}), good(2)])
    await house.run()
    assert house.steps == [("register", 1), ("start", 1), ("publish", 1)]
    assert house.letters[0].message.headers["error"] == RejectCode.UNPROCESSABLE
    assert house.channel.acked == [2]


async def test_what_cannot_be_registered_is_tried_three_times_alone() -> None:
    """And only then condemned; its neighbours are sent at the first."""
    house = House([good(1), good(2), good(3)])
    poisoned = house.batches[0][1].message.message_id

    def refuse(events: Sequence[ReceivedEvent]) -> None:
        if any(str(each.event_id) == poisoned for each in events):
            raise ValueError("cannot be stored")

    house.on_register = refuse
    await house.run()
    alone = [step for step in house.steps if step == ("register", 1)]
    assert len(alone) == 2 + TRIES_ALONE
    assert [letter.message.message_id for letter in house.letters] == [poisoned]
    assert house.letters[0].message.headers["error"] == RejectCode.UNPROCESSABLE
    assert house.channel.acked == [3]


async def test_a_passing_fault_condemns_nothing() -> None:
    """The second try alone succeeds."""
    house, calls = House([good(1)]), []

    def refuse_twice(_: object) -> None:
        calls.append(1)
        if len(calls) <= 2:
            raise ValueError("a deadlock, say")

    house.on_register = refuse_twice
    await house.run()
    assert (house.letters, house.channel.acked) == ([], [1])


async def test_an_event_that_breaks_its_birth_leaks_no_slot() -> None:
    """Slots that were taken for its neighbours come back."""
    slots = Slots(total=5, per_host=5)
    event = ReceivedEvent(
        event_id=uuid4(), type="x", body="{}", session_id=None, request_id=None,
        callback_url="http://a.example/", client=None,
    )  # fmt: skip
    births = Births(
        Patience(cast("Any", AnswersPings())),
        dispatcher=cast("Any", Room()), slots=slots, hosts=Hosts(), retries=cast("Any", None),
        terms=Terms(schedule_s=(0,), timeout_s=1, expires_s=timedelta(days=1).total_seconds()),
    )  # fmt: skip
    broken = SimpleNamespace(type="x", callback_url="http://a.example/", client=None)  # it has no id
    with pytest.raises(AttributeError):
        await births.register([event, cast("Any", broken)], lambda: NOW, wanted=lambda: True)
    assert (slots.free, dict(slots.taken)) == (5, {})


class Room:
    """A dispatcher with room."""

    def room(self) -> int:
        return 10


class AnswersPings:
    """A database in good health."""

    def connect(self) -> Any:
        return self

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def execution_options(self, **_: object) -> Any:
        return self

    async def execute(self, *_: object) -> list[Any]:
        return []

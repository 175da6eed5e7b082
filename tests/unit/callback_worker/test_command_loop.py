"""What the loop over commands acknowledges, waits for, and sets aside."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from callback_worker.commands import TRIES, CommandLoop
from callback_worker.patience import Patience
from shared.broker.consumer import Batch
from shared.broker.publisher import Outcome
from shared.callback_commands import Redeliver, RemoveSubscription
from shared.errors import RejectCode
from shared.messages import Inbound, Outgoing
from tests.builders import NOW, batch, inbound
from tests.unit.callback_worker.test_event_loop import Channel


class House:
    """Everything around the loop. `begin` is what a transaction meets; `committed` counts those that went through."""

    def __init__(self, *batches: Sequence[Inbound]) -> None:
        self.channel, self.drain = Channel(), asyncio.Event()
        self.batches = deque(batches)
        self.letters: list[Outgoing] = []
        self.on_begin: Callable[[], None] = lambda: None
        self.committed = self.woken = 0
        self.keep_for = timedelta(days=3)

    async def run(self) -> None:
        part = cast("Any", self)
        loop = CommandLoop(
            part, part, Patience(part), redeliveries=part, drain=self.drain, clock=lambda: NOW, remembered_days=30
        )
        await loop.run()

    async def take(self, _: int) -> Batch | None:
        return batch(self.batches.popleft(), self.channel) if self.batches else None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["House"]:
        self.on_begin()
        yield self
        self.committed += 1

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["House"]:
        """The ping: this database is in good health."""
        yield self

    async def execute(self, *_: object) -> "House":
        return self

    def one_or_none(self) -> bool:
        """Every insert is new, and every callback is known."""
        return True

    def wake(self) -> None:
        self.woken += 1

    async def publish(self, letters: Sequence[Outgoing], *, timeout_s: float) -> list[Outcome]:
        self.letters += letters
        return [Outcome.CONFIRMED] * len(letters)


def removal(tag: int = 1) -> Inbound:
    return inbound(b'{"name": "x"}', routing_key=RemoveSubscription.TYPE, delivery_tag=tag)


def redelivery(tag: int = 1) -> Inbound:
    return inbound(b'{"state": "FAILED"}', routing_key=Redeliver.TYPE, delivery_tag=tag)


async def test_every_command_is_a_transaction_and_the_batch_is_acknowledged_at_its_end() -> None:
    """Only a redelivery wakes those who make it."""
    house = House([removal(1), redelivery(2), removal(3)])
    await house.run()
    assert (house.committed, house.woken, house.channel.acked) == (3, 1, [3])


async def test_an_outage_is_waited_for() -> None:
    """With pauses, and without a dead letter."""
    house, begun = House([redelivery(1)]), []

    def fail_twice() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) < 3:
            raise OSError("connection refused")

    house.on_begin = fail_twice
    await house.run()
    assert (house.committed, house.letters, house.channel.acked) == (1, [], [1])
    assert begun[2] - begun[0] > 0.1


async def test_a_drain_in_an_outage_leaves_the_batch_to_others() -> None:
    """Nothing is acknowledged, and no later batch is taken: its ack would cover this one."""
    house = House([removal(1)], [removal(2)])

    def fail() -> None:
        house.drain.set()
        raise OSError("connection refused")

    house.on_begin = fail
    await house.run()
    assert (house.committed, house.channel.acked, len(house.batches)) == (0, [], 1)


async def test_what_cannot_be_applied_is_set_aside_after_some_tries_and_its_neighbours_are_applied() -> None:
    house, begun = House([removal(1), removal(2), inbound(b"{", routing_key=Redeliver.TYPE, delivery_tag=3)]), []

    def refuse_the_first() -> None:
        begun.append(1)
        if len(begun) <= TRIES:
            raise ValueError("cannot be stored")

    house.on_begin = refuse_the_first
    await house.run()
    assert (house.committed, house.channel.acked) == (1, [3])
    assert [letter.message.headers["error"] for letter in house.letters] == [
        RejectCode.UNPROCESSABLE, RejectCode.NOT_JSON,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"unreadable": b"\xff"}, RejectCode.UNREADABLE_PROPERTIES),
        ({"message": {"message_id": None}}, RejectCode.NO_MESSAGE_ID),
        ({"message": {"type": "session.start.v1"}}, RejectCode.UNKNOWN_TYPE),
    ],
)
async def test_what_cannot_be_understood_is_set_aside(changes: dict[str, Any], code: RejectCode) -> None:
    """And nothing is asked of the database."""
    house = House([inbound(b'{"name": "x"}', **({"routing_key": RemoveSubscription.TYPE} | changes))])
    await house.run()
    assert (house.committed, house.channel.acked) == (0, [1])
    assert [letter.message.headers["error"] for letter in house.letters] == [code]

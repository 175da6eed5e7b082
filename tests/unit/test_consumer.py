"""A channel that dies in the middle of a call takes nobody along."""

import asyncio
from typing import Any, cast

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from shared.broker import consumer
from shared.broker.consumer import Batch, Consumer
from shared.broker.hold import Hold
from tests.builders import inbound


class Channel:
    """Every call ends as told: by an error, by the cancellation that aiormq leaks, or never."""

    def __init__(self, end: type[BaseException] | None) -> None:
        self._end = end
        self.calls: list[str] = []
        self.is_closed = False

    async def basic_ack(self, *_: object, **__: object) -> None:
        await self._call("ack")

    async def basic_cancel(self, tag: str) -> None:
        await self._call(f"cancel {tag}")

    async def _call(self, what: str) -> None:
        self.calls.append(what)
        if self._end is None:
            await asyncio.Event().wait()
        else:
            raise self._end


ENDS = [ChannelInvalidStateError, asyncio.CancelledError, None]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(consumer, "ANSWER_TIMEOUT_S", 0.05)


@pytest.mark.parametrize("end", ENDS)
async def test_an_ack_on_a_dying_channel_is_over_soon(end: type[BaseException] | None) -> None:
    """What it was for comes again, and the inbox knows it."""
    channel, hold, heard = Channel(end), Hold(), list[str]()
    hold.arrived(inbound(b"{}", delivery_tag=7), 0)
    batch = Batch(hold.take(1), cast("Any", channel), hold, lambda: heard.append("settled"))
    async with asyncio.timeout(30):
        await batch.ack()
    assert (channel.calls, heard) == (["ack"], ["settled"])


@pytest.mark.parametrize("end", ENDS)
async def test_a_drain_does_not_wait_for_a_dying_channel(end: type[BaseException] | None) -> None:
    """Whether the consumer is cancelled does not matter any more."""
    made, channel = Consumer("amqp://nowhere", "queue", name="test", prefetch=10), Channel(end)
    made._channel, made._consumer_tag = cast("Any", channel), "a"
    async with asyncio.timeout(30):
        await made.stop()
        assert await made.take(1) is None
    assert channel.calls == ["cancel a"]

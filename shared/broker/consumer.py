"""Takes natural batches from one queue and settles them by prefix, over one supervised connection.

The library's callback only enqueues: a lost connection cancels callbacks, so all work runs in tasks of the process.
Messages stay unacknowledged until the caller is done; whatever a lost connection held comes again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError

from shared.broker import properties
from shared.broker.connection import HEALTHY_AFTER_S, apart, heed_cancellation, open_channel, supervise
from shared.broker.hold import Hold
from shared.errors import NotProvisioned
from shared.logs import get_logger
from shared.messages import Inbound

log = get_logger(__name__)

# A broker that takes longer than this to register a consumer, or to check or cancel one, hangs.
ANSWER_TIMEOUT_S = 5.0
# The writer takes an ack at once, unless the connection has just died.
ACK_TIMEOUT_S = 2.0
# What ends a connection at once, so often in a row, is no accident: a message, perhaps, that the decoder dies of.
FRUITLESS_MOST = 3


def _nobody(_: int) -> None:
    """For a batch that nobody counts."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages in queue order, from one channel. `on_ack` hears up to which delivery tag they are settled."""

    messages: tuple[Inbound, ...]
    channel: AbstractChannel
    on_ack: Callable[[int], None] = _nobody

    @property
    def is_live(self) -> bool:
        """Whether an ack can still reach the broker; if not, it has already queued the messages again."""
        return not self.channel.is_closed

    async def ack(self) -> None:
        """Acknowledge these messages and all before them. On a dead channel they come again, which is harmless."""
        tag = self.messages[-1].delivery_tag
        await apart(self.channel.basic_ack(tag, multiple=True, wait=False), timeout_s=ACK_TIMEOUT_S)
        self.on_ack(tag)


class Consumer:
    """One consumer of one quorum queue."""

    def __init__(self, url: str, queue: str, *, name: str, prefetch: int) -> None:
        self._url = url
        self.queue = queue
        self.name = name
        self._prefetch = prefetch
        self._buffer: deque[Inbound] = deque()
        self._channel: AbstractChannel | None = None
        self._consumer_tags: list[str] = []
        self._hold = Hold(prefetch)
        self._may_grow = asyncio.Event()
        self._broken: asyncio.Future[None] | None = None
        self._registered_at_s = 0.0
        self._fruitless_count = 0
        self._arrived = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await supervise(self._serve, what=self.name)

    def fault(self) -> str | None:
        """Return why nothing is consumed now, or None."""
        if self._fruitless_count >= FRUITLESS_MOST and not self._is_fruitful():
            return f"the connection to {self.queue} ended {self._fruitless_count} times in a row, at once"
        if not self._consumer_tags:
            return f"no consumer on {self.queue}"
        held = self._hold.fault(_now_s())
        return None if held is None else f"{self.queue}: {held}"

    async def take(self, most: int) -> Batch | None:
        """Wait for a message, then return it with whatever else is here, up to `most`; None once stopped."""
        while not self._buffer and not self._stopped:
            self._arrived.clear()
            await self._arrived.wait()
        if self._stopped or self._channel is None:
            return None
        count = min(most, len(self._buffer))
        hold = self._hold

        def on_ack(tag: int) -> None:
            hold.settled(tag, _now_s())
            self._may_grow.set()

        return Batch(tuple(self._buffer.popleft() for _ in range(count)), self._channel, on_ack)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called: what fails now is for others to retry."""
        return self._stopped

    async def stop(self) -> None:
        """Take no more: cancel the consumer and forget what is buffered; the broker hands it to others."""
        self._stopped = True
        self._arrived.set()
        channel = self._channel
        if channel is not None:
            await asyncio.gather(*(_cancel(channel, tag) for tag in self._consumer_tags))

    async def _serve(self) -> None:
        await _check_is_quorum(self._url, self.queue, self.name)
        async with open_channel(self._url, name=self.name, confirms=False) as channel:
            broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._buffer, self._channel, self._hold, self._broken = deque(), channel, Hold(self._prefetch), broken
            channel.on_consumer_cancel_callbacks.add(lambda _: self._end(None))
            self._may_grow.clear()
            growing = asyncio.create_task(self._keep_growing(channel, self._hold))
            for end in (broken, growing):
                end.add_done_callback(_see)
            try:
                await self._consume(channel, prefetch=self._hold.allowed)
                self._registered_at_s = _now_s()
                log.info("consumer_registered", queue=self.queue)
                await _first_end(channel.closing, broken, growing)
            finally:
                growing.cancel()
                self._fruitless_count = 0 if self._is_fruitful() else self._fruitless_count + 1
                self._buffer, self._channel, self._consumer_tags = deque(), None, []

    def _is_fruitful(self) -> bool:
        """Whether this connection was good for something, or has lasted."""
        return self._hold.has_settled or _now_s() - self._registered_at_s > HEALTHY_AFTER_S

    async def _keep_growing(self, channel: AbstractChannel, hold: Hold) -> None:
        """Register further consumers as more may be held; return when all of the prefetch is.

        The earlier ones stay: to cancel one would lose what is on its way, and an ack by prefix would cover that.
        """
        while hold.allowed < self._prefetch:
            await self._may_grow.wait()
            self._may_grow.clear()
            if (more := hold.grow()) > 0:
                await self._consume(channel, prefetch=more)
        await asyncio.Event().wait()

    async def _consume(self, channel: AbstractChannel, *, prefetch: int) -> None:
        if self._stopped:
            return
        await channel.basic_qos(prefetch_count=prefetch, timeout=ANSWER_TIMEOUT_S)
        consumed = await channel.basic_consume(self.queue, self._enqueue, timeout=ANSWER_TIMEOUT_S)
        heed_cancellation()
        assert consumed.consumer_tag is not None
        self._consumer_tags.append(consumed.consumer_tag)
        if self._stopped:  # meanwhile
            await _cancel(channel, consumed.consumer_tag)

    async def _enqueue(self, delivered: DeliveredMessage) -> None:
        if delivered.channel is not self._channel or self._stopped:
            return
        try:
            inbound = properties.inbound(delivered)
        except Exception as error:  # nobody would hear of it, and the message would be held for ever
            self._end(error)
            return
        self._buffer.append(inbound)
        self._hold.arrived(inbound, _now_s())
        self._arrived.set()
        self._may_grow.set()

    def _end(self, error: Exception | None) -> None:
        """End this connection, for a reason of ours or because the broker has cancelled a consumer."""
        if self._broken is None or self._broken.done():
            return
        if error is None:
            self._broken.set_result(None)
        else:
            self._broken.set_exception(error)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _see(end: "asyncio.Future[None]") -> None:
    """Of several ends the first one counts; asyncio would complain of the others."""
    if not end.cancelled():
        end.exception()


async def _cancel(channel: AbstractChannel, tag: str) -> None:
    await apart(channel.basic_cancel(tag), timeout_s=ANSWER_TIMEOUT_S)


async def _first_end(*ends: "asyncio.Future[Any]") -> None:
    """Raise what ended the channel; return when the broker cancelled the consumer: its queue was deleted."""
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        if end.done():
            await end


async def _check_is_quorum(url: str, queue: str, name: str) -> None:
    """Raise NotProvisioned when the queue is missing or of another kind.

    A process may not declare, not even passively (RabbitMQ 4.3 wants configure rights for that), and nothing else in
    AMQP tells the kind. But the broker refuses a consumer argument of streams and names the kind as it does so.
    """
    async with open_channel(url, name=f"{name} (checks its queue)", confirms=False) as channel:
        try:
            await channel.basic_qos(prefetch_count=1, timeout=ANSWER_TIMEOUT_S)
            await channel.basic_consume(queue, _ignore, arguments={"x-stream-offset": "next"}, timeout=ANSWER_TIMEOUT_S)
        except AMQPError as error:
            if "rabbit_classic_queue" not in str(error):
                if "PRECONDITION_FAILED" in str(error) or "rabbit_quorum_queue" in str(error):
                    return
                raise
    raise NotProvisioned(f"queue {queue} is not a quorum queue")


async def _ignore(_: DeliveredMessage) -> None:
    """The probe's consumer; its channel closes at once, and what it was given is queued again."""

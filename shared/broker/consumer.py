"""Takes natural batches from one queue and settles them by prefix, over one supervised connection.

The library's callback only enqueues: a lost connection cancels callbacks, so all work runs in tasks of the process.
Messages stay unacknowledged until the caller is done; whatever a lost connection held comes again.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError

from shared.broker import properties
from shared.broker.connection import open_channel, supervise
from shared.errors import NotProvisioned
from shared.logs import get_logger
from shared.messages import Inbound

log = get_logger(__name__)

_PROBE_TIMEOUT_S = 5.0
# A message that was delivered so often in vain may kill whoever holds it, and each time all that is held beside it
# comes closer to the delivery limit. One restart is no sign of that yet.
_SUSPECT_AFTER_DELIVERIES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages in queue order, from one channel."""

    messages: tuple[Inbound, ...]
    channel: AbstractChannel

    @property
    def is_live(self) -> bool:
        """Whether an ack can still reach the broker; if not, it has already queued the messages again."""
        return not self.channel.is_closed

    async def ack(self) -> None:
        """Acknowledge these messages and all before them. On a dead channel they come again, which is harmless."""
        with suppress(AMQPError, RuntimeError, OSError):
            await self.channel.basic_ack(self.messages[-1].delivery_tag, multiple=True, wait=False)


class Consumer:
    """One consumer of one quorum queue."""

    def __init__(self, url: str, queue: str, *, name: str, prefetch: int) -> None:
        self._url = url
        self.queue = queue
        self._name = name
        self._prefetch = prefetch
        self._buffer: deque[Inbound] = deque()
        self._channel: AbstractChannel | None = None
        self._consumer_tags: list[str] = []
        self._fresh = asyncio.Event()
        self._arrived = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await supervise(self._serve, what=self._name)

    def fault(self) -> str | None:
        """Return why nothing is consumed now, or None."""
        return None if self._consumer_tags else f"no consumer on {self.queue}"

    async def take(self, most: int) -> Batch | None:
        """Wait for a message, then return it with whatever else is here, up to `most`; None once stopped."""
        while not self._buffer and not self._stopped:
            self._arrived.clear()
            await self._arrived.wait()
        if self._stopped or self._channel is None:
            return None
        count = min(most, len(self._buffer))
        return Batch(tuple(self._buffer.popleft() for _ in range(count)), self._channel)

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
            for tag in list(self._consumer_tags):
                await _cancel(channel, tag)

    async def _serve(self) -> None:
        await _check_is_quorum(self._url, self.queue, self._name)
        async with open_channel(self._url, name=self._name, confirms=False) as channel:
            self._buffer, self._channel = deque(), channel
            cancelled = asyncio.Event()
            channel.on_consumer_cancel_callbacks.add(lambda _: cancelled.set())
            self._fresh.clear()
            await self._consume(channel, prefetch=1)
            log.info("consumer_registered", queue=self.queue)
            widening = asyncio.create_task(self._widen(channel))
            try:
                await _either(channel.closing, cancelled)
            finally:
                widening.cancel()
                self._buffer, self._channel, self._consumer_tags = deque(), None, []

    async def _widen(self, channel: AbstractChannel) -> None:
        """Take one message at a time while they are suspects; then a second consumer takes the rest of the prefetch.

        The first one stays: to cancel it would lose what is on its way, and an ack by prefix would cover that.
        """
        await self._fresh.wait()
        with suppress(AMQPError, RuntimeError, OSError):  # the channel's end is told by `closing`
            await self._consume(channel, prefetch=self._prefetch)

    async def _consume(self, channel: AbstractChannel, *, prefetch: int) -> None:
        if self._stopped:
            return
        await channel.basic_qos(prefetch_count=prefetch)
        consumed = await channel.basic_consume(self.queue, self._enqueue)
        assert consumed.consumer_tag is not None
        self._consumer_tags.append(consumed.consumer_tag)
        if self._stopped:  # meanwhile
            await _cancel(channel, consumed.consumer_tag)

    async def _enqueue(self, delivered: DeliveredMessage) -> None:
        if delivered.channel is self._channel and not self._stopped:
            inbound = properties.inbound(delivered)
            self._buffer.append(inbound)
            self._arrived.set()
            if not _is_suspect(inbound):
                self._fresh.set()


def _is_suspect(inbound: Inbound) -> bool:
    count = inbound.message.headers.get("x-delivery-count")
    return inbound.redelivered and isinstance(count, int) and count >= _SUSPECT_AFTER_DELIVERIES


async def _cancel(channel: AbstractChannel, tag: str) -> None:
    with suppress(AMQPError, RuntimeError, OSError, TimeoutError):
        await channel.basic_cancel(tag, timeout=_PROBE_TIMEOUT_S)


async def _either(closing: "asyncio.Future[Any]", cancelled: asyncio.Event) -> None:
    """Return when the broker cancelled the consumer (its queue was deleted); raise what ended the channel."""
    waiting = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait((closing, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if closing.done():
        await closing


async def _check_is_quorum(url: str, queue: str, name: str) -> None:
    """Raise NotProvisioned when the queue is missing or of another kind.

    A process may not declare, not even passively (RabbitMQ 4.3 wants configure rights for that), and nothing else in
    AMQP tells the kind. But the broker refuses a consumer argument of streams and names the kind as it does so.
    """
    async with open_channel(url, name=f"{name} (checks its queue)", confirms=False) as channel:
        try:
            await channel.basic_qos(prefetch_count=1)
            await channel.basic_consume(queue, _ignore, arguments={"x-stream-offset": "next"}, timeout=_PROBE_TIMEOUT_S)
        except AMQPError as error:
            if "rabbit_classic_queue" not in str(error):
                if "PRECONDITION_FAILED" in str(error) or "rabbit_quorum_queue" in str(error):
                    return
                raise
    raise NotProvisioned(f"queue {queue} is not a quorum queue")


async def _ignore(_: DeliveredMessage) -> None:
    """The probe's consumer; its channel closes at once, and what it was given is queued again."""

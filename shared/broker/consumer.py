"""Takes natural batches from one queue and settles them, over one supervised connection.

The library's callback only enqueues: a lost connection cancels callbacks, so all work runs in tasks of the process.
Messages stay unacknowledged until the caller is done; whatever a lost connection held comes again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError

from shared.broker import properties
from shared.broker.care import Care
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages from one channel. `hold` knows what else is unsettled there; `on_settled` hears of the end."""

    messages: tuple[Inbound, ...]
    channel: AbstractChannel
    hold: Hold
    on_settled: Callable[[], None]

    @property
    def is_live(self) -> bool:
        """Whether an ack can still reach the broker; if not, it has already queued the messages again."""
        return not self.channel.is_closed

    async def ack(self) -> None:
        """Acknowledge these messages and no others. On a dead channel they come again, which is harmless."""
        tags = [each.delivery_tag for each in self.messages]
        await apart(self._acknowledge(tags), timeout_s=ACK_TIMEOUT_S)
        self.hold.settled(tags, _now_s())
        self.on_settled()

    async def _acknowledge(self, tags: Sequence[int]) -> None:
        """Return once they are written: a close drops what the library has queued, and a kill does as well."""
        if self.hold.covers_all_before(tags):
            await self.channel.basic_ack(max(tags), multiple=True)
        else:
            for tag in tags:
                await self.channel.basic_ack(tag)


class Consumer:
    """One consumer of one quorum queue; one batch at a time is in hand. All of a process share one `care`."""

    def __init__(self, url: str, queue: str, *, name: str, prefetch: int, care: Care | None = None) -> None:
        self._url = url
        self.queue = queue
        self.name = name
        self._prefetch = prefetch
        self._care = care or Care()
        self._hold = Hold()
        self._channel: AbstractChannel | None = None
        self._consumer_tag: str | None = None
        self._is_consuming = False
        self._may_take = asyncio.Event()
        self._broken: asyncio.Future[None] | None = None
        self._registered_at_s = 0.0
        self._fruitless_count = 0
        self._stopped = False

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await supervise(self._serve, what=self.name)

    def fault(self) -> str | None:
        """Return why nothing is consumed now, or None."""
        if self._fruitless_count >= FRUITLESS_MOST and not self._is_fruitful():
            return f"the connection to {self.queue} ended {self._fruitless_count} times in a row, at once"
        if not self._is_consuming:
            return f"no consumer on {self.queue}"
        held = self._hold.fault(_now_s())
        return None if held is None else f"{self.queue}: {held}"

    async def take(self, most: int) -> Batch | None:
        """Wait for a message, then return it with whatever else is here, up to `most`; None once stopped.

        The batch before must be settled, or its channel dead.
        """
        while not self._hold.has_ready and not self._stopped:
            self._may_take.clear()
            await self._may_take.wait()
        if self._stopped or self._channel is None:
            return None
        return Batch(self._hold.take(most), self._channel, self._hold, self._care.note)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called: what fails now is for others to retry."""
        return self._stopped

    async def stop(self) -> None:
        """Take no more: cancel the consumer and forget what is held; the broker hands it to others."""
        self._stopped = True
        self._may_take.set()
        if self._channel is not None and self._consumer_tag is not None:
            await apart(self._channel.basic_cancel(self._consumer_tag), timeout_s=ANSWER_TIMEOUT_S)

    async def _serve(self) -> None:
        await _check_is_quorum(self._url, self.queue, self.name)
        async with open_channel(self._url, name=self.name, confirms=False) as channel:
            broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._channel, self._hold, self._broken = channel, Hold(), broken
            channel.on_consumer_cancel_callbacks.add(lambda _: self._end(None))
            self._care.begin(self._hold)
            regulating = asyncio.create_task(self._regulate(channel, self._hold))
            for end in (broken, regulating):
                end.add_done_callback(_see)
            try:
                await _first_end(channel.closing, broken, regulating)
            finally:
                regulating.cancel()
                self._fruitless_count = 0 if self._is_fruitful() else self._fruitless_count + 1
                self._care.end(self._hold)
                self._hold, self._channel, self._consumer_tag, self._is_consuming = Hold(), None, None, False

    def _is_fruitful(self) -> bool:
        """Whether this connection was good for something, or has lasted."""
        return self._hold.has_settled or _now_s() - self._registered_at_s > HEALTHY_AFTER_S

    async def _regulate(self, channel: AbstractChannel, hold: Hold) -> None:
        """Consume; while there is a suspect anywhere in the process take nothing new, and settle what is here.

        What is on its way when the consumer is cancelled goes back to the queue.
        """
        while True:
            tag = await self._consume(channel)
            await self._until(lambda: self._care.is_needed)
            await channel.basic_cancel(tag, timeout=ANSWER_TIMEOUT_S)
            heed_cancellation()
            while self._care.is_needed:
                await self._until(lambda: hold.is_quiet)
                # It answers after the acknowledgements: no death brings back what is settled.
                await channel.basic_qos(prefetch_count=self._prefetch, timeout=ANSWER_TIMEOUT_S)
                heed_cancellation()
                self._care.rest(hold)
                await self._until(lambda: self._care.tries(hold) or not self._care.is_needed)
                self._may_take.set()
            self._care.begin(hold)

    async def _consume(self, channel: AbstractChannel) -> str:
        await channel.basic_qos(prefetch_count=self._prefetch, timeout=ANSWER_TIMEOUT_S)
        consumed = await channel.basic_consume(self.queue, self._enqueue, timeout=ANSWER_TIMEOUT_S)
        heed_cancellation()
        assert consumed.consumer_tag is not None
        self._consumer_tag = consumed.consumer_tag
        if self._stopped:  # meanwhile
            await self.stop()
        if not self._is_consuming:
            self._is_consuming, self._registered_at_s = True, _now_s()
            log.info("consumer_registered", queue=self.queue)
        return consumed.consumer_tag

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; once stopped, for ever."""
        await self._care.until(lambda: not self._stopped and condition())

    async def _enqueue(self, delivered: DeliveredMessage) -> None:
        if delivered.channel is not self._channel or self._stopped:
            return
        try:
            inbound = properties.inbound(delivered)
        except Exception as error:  # nobody would hear of it, and the message would be held for ever
            self._end(error)
            return
        self._hold.arrived(inbound, _now_s())
        self._may_take.set()
        self._care.note()

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

"""A partner on the broker: publishes commands and hears every event, with the time at which it came."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aio_pika
import orjson
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from shared.topology import EVENTS, PARTNERS

# Enough to keep the confirms in a pipeline.
AT_ONCE = 200


class Partner:
    """One connection. Times are those of `time.perf_counter`."""

    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange
        self._awaited: dict[tuple[str, str], asyncio.Future[float]] = {}

    def expect(self, session_id: str, event_type: str) -> asyncio.Future[float]:
        """Return when this event of this session comes; to be called before what causes it is published."""
        future = asyncio.get_running_loop().create_future()
        self._awaited[session_id, event_type] = future
        return future

    async def publish(self, command_type: str, body: dict[str, Any]) -> str:
        """Publish a command and wait for its confirm; return its message id."""
        message_id = str(uuid4())
        message = aio_pika.Message(orjson.dumps(body), message_id=message_id, delivery_mode=2)
        await self._exchange.publish(message, command_type)
        return message_id

    async def publish_all(self, commands: list[tuple[str, dict[str, Any]]]) -> None:
        """Publish many, in about this order."""
        left = iter(commands)

        async def work() -> None:
            for command_type, body in left:
                await self.publish(command_type, body)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    def hear(self, message: AbstractIncomingMessage) -> None:
        """Take one event."""
        now = time.perf_counter()
        content = orjson.loads(message.body)
        future = self._awaited.pop((content["data"].get("sessionId") or "", content["type"]), None)
        if future is not None and not future.done():
            future.set_result(now)


@asynccontextmanager
async def open_partner(amqp_url: str, *, hears: bool) -> AsyncIterator[Partner]:
    """Open a partner's connection; `hears` whether it gets the events."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        partner = Partner(await channel.get_exchange(PARTNERS, ensure=False))
        if hears:
            events = await channel.declare_queue(exclusive=True)
            await events.bind(EVENTS, "#")

            async def take(message: AbstractIncomingMessage) -> None:
                partner.hear(message)

            await events.consume(take, no_ack=True)
        yield partner

"""The queue as partners, subscribers of events and operators see it; and waiting for a condition, never for a time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.topology import COMMANDS, EVENTS, PARTNERS

Found = TypeVar("Found")
POLL_S = 0.02


async def eventually(look: Callable[[], Awaitable[Found | None]], *, timeout_s: float = 30) -> Found:
    """Return the first true result of `look`; fail with its last one when that takes too long."""
    found = None
    try:
        async with asyncio.timeout(timeout_s):
            while not (found := await look()):
                await asyncio.sleep(POLL_S)
            return found
    except TimeoutError:
        raise AssertionError(f"{look} still returned {found!r} after {timeout_s} s") from None


class Wire:
    """One administrator's connection to a house's vhost."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, events: AbstractQueue) -> None:
        self._connection = connection
        self._events = events
        self._seen: list[tuple[str, dict[str, Any], AbstractIncomingMessage]] = []

    async def publish(
        self,
        type: str,
        body: bytes | dict[str, Any],
        /,
        *,
        message_id: str | None = "",
        exchange: str = PARTNERS,
        **properties: Any,
    ) -> str | None:
        """Publish as a partner does; a message id is made unless one (or None) is given. Returns it.

        `type` is the routing key; among `properties` it is the property.
        """
        message_id = str(uuid4()) if message_id == "" else message_id
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._connection.channel() as channel:
            target = await channel.get_exchange(exchange, ensure=False)
            if message_id is None:
                await self._publish_without_id(channel, exchange, type, content)
            else:
                message = aio_pika.Message(content, message_id=message_id, delivery_mode=2, **properties)
                await target.publish(message, type)
        return message_id

    async def publish_many(self, type: str, bodies: list[dict[str, Any]], *, exchange: str = PARTNERS) -> list[str]:
        """Publish them in order, without waiting in between; return their message ids."""
        messages = [aio_pika.Message(json.dumps(body).encode(), message_id=str(uuid4())) for body in bodies]
        async with self._connection.channel() as channel:
            target = await channel.get_exchange(exchange, ensure=False)
            await asyncio.gather(*(target.publish(message, type) for message in messages))
        return [message.message_id or "" for message in messages]

    async def publish_raw(self, type: str, body: bytes, raw_properties: bytes, *, exchange: str = PARTNERS) -> None:
        """Publish with these bytes as the encoded properties, whatever they are."""

        class Raw(Basic.Properties):
            def marshal(self) -> bytes:
                return raw_properties

        async with self._connection.channel() as channel:
            underlay = await channel.get_underlay_channel()
            await underlay.basic_publish(body, exchange=exchange, routing_key=type, properties=Raw(message_id="raw"))

    async def publish_under_raw_key(self, key: bytes, body: bytes, *, exchange: str = PARTNERS) -> None:
        """Publish with a routing key of any bytes."""

        class RawKey(Basic.Publish):
            def marshal(self) -> bytes:
                # ticket, exchange, routing key, flags (AMQP 0-9-1, 1.8.3.7)
                name = exchange.encode()
                return b"\x00\x00" + bytes([len(name)]) + name + bytes([len(key)]) + key + b"\x00"

        header = ContentHeader(
            body_size=len(body), properties=Basic.Properties(message_id=str(uuid4()), delivery_mode=2)
        )
        async with self._connection.channel(publisher_confirms=False) as channel:
            underlay: Any = await channel.get_underlay_channel()
            frames: list[Any] = [RawKey(), header, ContentBody(body)]
            await underlay.write_queue.put(ChannelFrame.marshall(underlay.number, frames))

    async def _publish_without_id(self, channel: Any, exchange: str, type: str, body: bytes) -> None:
        underlay = await channel.get_underlay_channel()

        class NoId(Basic.Properties):
            def marshal(self) -> bytes:
                return b"\x00\x00"

        await underlay.basic_publish(body, exchange=exchange, routing_key=type, properties=NoId(message_id="none"))

    async def get(self, queue: str, *, timeout_s: float = 30) -> AbstractIncomingMessage:
        """Take the next message of a queue, a dead letter for example."""
        async with self._connection.channel() as channel:
            source = await channel.get_queue(queue, ensure=False)
            return await eventually(lambda: _get(source), timeout_s=timeout_s)

    async def empty(self, queue: str) -> None:
        """Throw away what waits in a queue."""
        async with self._connection.channel() as channel:
            await (await channel.get_queue(queue, ensure=False)).purge()

    async def depth(self, queue: str) -> int:
        """How many messages wait in a queue."""
        async with self._connection.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def event(self, matches: Callable[[dict[str, Any]], bool], *, timeout_s: float = 30) -> dict[str, Any]:
        """Return the data of the first event so far, or to come, that matches."""
        return (await self.events(matches, count=1, timeout_s=timeout_s))[0]

    async def events(
        self, matches: Callable[[dict[str, Any]], bool], *, count: int, timeout_s: float = 30
    ) -> list[dict[str, Any]]:
        """Return all matching events, with `type` beside their data, once there are `count`."""

        async def found() -> list[dict[str, Any]]:
            while (message := await _get(self._events)) is not None:
                content = json.loads(message.body)
                self._seen.append((message.message_id or "", content["data"] | {"type": content["type"]}, message))
            hits = [data for _, data, _ in self._seen if matches(data)]
            return hits if len(hits) >= count else []

        return await eventually(found, timeout_s=timeout_s)


async def _get(queue: AbstractQueue) -> AbstractIncomingMessage | None:
    return await queue.get(fail=False, no_ack=True)


@asynccontextmanager
async def open_wire(amqp_url: str) -> AsyncIterator[Wire]:
    """Open a wire that records every event from now on."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        events = await channel.declare_queue(exclusive=True)
        await events.bind(EVENTS, "#")
        yield Wire(connection, events)


__all__ = ["COMMANDS", "Wire", "eventually", "open_wire"]

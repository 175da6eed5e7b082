"""A partner's system on the queue: publishes with confirms, connects anew when it must, and tells what it was told."""

import asyncio
import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError

from shared.topology import PARTNERS
from tests.faults.ledger import Answer, Word

CONFIRM_TIMEOUT_S = 4.0
CONNECT_TIMEOUT_S = 4.0


class Partner:
    """One connection at a time."""

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._connecting = asyncio.Lock()

    async def publish(
        self, type: str, message_id: UUID | str, body: dict[str, Any] | bytes, exchange: str = PARTNERS
    ) -> Answer:
        """Publish one command and wait for its confirm."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(content, message_id=str(message_id), delivery_mode=2)
        # In a task of its own: a broken connection makes the library raise its own CancelledError.
        task = asyncio.create_task(self._send(message, type, exchange))
        done, _ = await asyncio.wait([task], timeout=CONFIRM_TIMEOUT_S)
        if not done:
            task.cancel()
            await self.close()
            return Answer(Word.UNKNOWN, "no confirm")
        if task.cancelled():
            return Answer(Word.UNKNOWN, "connection lost")
        error = task.exception()
        if error is None:
            return Answer(Word.ACKNOWLEDGED, "confirmed")
        if isinstance(error, DeliveryError):
            return Answer(Word.NO, "nack")
        await self.close()
        return Answer(Word.UNKNOWN, f"connection lost ({error.__class__.__name__})")

    async def close(self) -> None:
        """Forget the connection; the next publish makes another."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            closing = asyncio.create_task(_close(connection))
            await asyncio.wait([closing], timeout=1)

    async def _send(self, message: aio_pika.Message, type: str, exchange: str) -> None:
        channel = await self._open_channel()
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(message, type)

    async def _open_channel(self) -> AbstractChannel:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                self._connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT_S)
                self._channel = await self._connection.channel()
            return self._channel


async def _close(connection: AbstractConnection) -> None:
    with suppress(Exception):
        await connection.close()

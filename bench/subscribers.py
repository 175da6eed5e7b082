"""Ten subscribers on ten loopback addresses, of which five can be dead, each in a way of its own."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from enum import StrEnum

from ops.receiver import Answer, Receiver

ADDRESSES = [f"127.0.0.{number}" for number in range(2, 12)]
# Slower than any deadline, and no load for this process.
DRIP_EVERY_S = 1.0
# A connection that loopback has not made by then, it will not make.
CONNECTED_WITHIN_S = 0.2


class Way(StrEnum):
    """How a host is dead."""

    REFUSES = "refuses connections"
    NEVER_ACCEPTS = "lets connections time out"
    HANGS = "never answers"
    DRIPS = "says 200, then drips its body"
    FAILS = "answers 500"


class Answering:
    """A healthy host. `came` holds when the first attempt of each event came, by event id."""

    def __init__(self, receiver: Receiver) -> None:
        self.url = receiver.url()
        self._receiver = receiver

    def came(self) -> dict[str, float]:
        """Return seconds since the epoch by event id."""
        found: dict[str, float] = {}
        for callback in self._receiver.callbacks:
            found.setdefault(callback.id, callback.received_at)
        return found


@asynccontextmanager
async def answering(address: str) -> AsyncIterator[Answering]:
    """A host that says 204 at once."""
    async with _receiver(address) as receiver:
        yield Answering(receiver)


@asynccontextmanager
async def dead(address: str, way: Way) -> AsyncIterator[str]:
    """A dead host; yields its URL."""
    async with AsyncExitStack() as stack:
        if way is Way.FAILS:
            receiver = await stack.enter_async_context(_receiver(address))
            receiver.answer = lambda _: Answer(500)
            yield receiver.url()
            return
        listener = stack.enter_context(closing(socket.create_server((address, 0), backlog=0)))
        url = f"http://{address}:{listener.getsockname()[1]}/"
        if way is Way.REFUSES:
            listener.close()
        elif way is Way.NEVER_ACCEPTS:
            await _fill(stack, listener)
        else:
            await stack.enter_async_context(_slow(listener, drips=way is Way.DRIPS))
        yield url


@asynccontextmanager
async def _receiver(address: str) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.open(host=address)
    try:
        yield receiver
    finally:
        await receiver.close()


async def _fill(stack: AsyncExitStack, listener: socket.socket) -> None:
    """Take all places of the listener's queue, so that the kernel drops whoever comes next."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        while True:
            taken = stack.enter_context(closing(socket.socket()))
            taken.setblocking(False)
            async with asyncio.timeout(CONNECTED_WITHIN_S):
                await loop.sock_connect(taken, listener.getsockname())


@asynccontextmanager
async def _slow(listener: socket.socket, *, drips: bool) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            if drips:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while not reader.at_eof():
                if drips:
                    writer.write(b".")
                    await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(4096), DRIP_EVERY_S)
        writer.close()

    server = await asyncio.start_server(serve, sock=listener, backlog=1024)
    try:
        yield
    finally:
        server.close()


def now_s() -> float:
    """Seconds since the epoch, as the receivers note them."""
    return time.time()

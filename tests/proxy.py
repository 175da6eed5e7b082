"""A TCP proxy on loopback that can be cut, frozen, slowed or lost: a dead, stuck or distant server of a healthy one."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65536


class Way(Enum):
    """A direction."""

    THERE = "to the server"
    BACK = "from the server"


@dataclass(eq=False)
class _Pair:
    """One forwarded connection: both its ends."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    lost: set[Way] = field(default_factory=set)
    is_doomed: bool = False

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Forwards to the server of `url`; `self.url` is the same URL through the proxy.

    `touched` counts what the faults did: connections cut or lost, chunks held or delayed, answers swallowed.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._open = {way: asyncio.Event() for way in Way}
        for gate in self._open.values():
            gate.set()
        self._is_cut = False
        self._delay_s = 0.0
        self._doom: bytes | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.touched = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        login, at, _ = self._parts.netloc.rpartition("@")
        self.url = urlunsplit(self._parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """From now on nothing passes, and nobody is told: a blocked broker, a lost route."""
        for way in Way:
            self.hold(way)

    def hold(self, way: Way) -> None:
        """From now on nothing passes in this direction; it comes later, when all is restored."""
        self._open[way].clear()

    def cut(self) -> None:
        """Reset every connection, and every new one: a server that is down."""
        self._is_cut = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are served."""
        for pair in self._pairs:
            pair.abort()
            self.touched += 1

    def lose(self, *ways: Way) -> None:
        """Leave every connection half open: what is sent on it (in these directions) is lost, and nobody is told.

        New ones are served.
        """
        for pair in self._pairs:
            pair.lost.update(ways or Way)

    def slow(self, delay_s: float) -> None:
        """Delay everything."""
        self._delay_s = delay_s

    def cut_answer_to(self, words: bytes) -> None:
        """Let what holds these words through, and reset the connection in place of the answer."""
        self._doom = words

    def restore(self) -> None:
        """Let everything pass again. Connections that were lost are reset."""
        self._is_cut, self._delay_s, self._doom = False, 0.0, None
        for pair in self._pairs:
            if pair.lost:
                pair.abort()
        for gate in self._open.values():
            gate.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self._is_cut:
                await self._connect_and_forward(reader, writer)
            else:
                self.touched += 1
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _connect_and_forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open[Way.THERE].wait()
        assert self._parts.hostname is not None
        there_reader, there_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        pair = _Pair(writer, there_writer)
        self._pairs.add(pair)
        pumps = [
            asyncio.create_task(self._pump(reader, there_writer, Way.THERE, pair)),
            asyncio.create_task(self._pump(there_reader, writer, Way.BACK, pair)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            self._pairs.discard(pair)
            there_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way, pair: _Pair) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if not await self._passes(chunk, way, pair):
                continue
            writer.write(chunk)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def _passes(self, chunk: bytes, way: Way, pair: _Pair) -> bool:
        """Wait as the faults have it; return whether the bytes go on."""
        if not self._open[way].is_set():
            self.touched += 1
            await self._open[way].wait()
        if self._delay_s:
            self.touched += 1
            await asyncio.sleep(self._delay_s)
        if way in pair.lost:
            self.touched += 1
            return False
        if way is Way.BACK and pair.is_doomed:
            self.touched += 1
            pair.abort()
            return False
        pair.is_doomed = pair.is_doomed or (way is Way.THERE and self._doom is not None and self._doom in chunk)
        return True

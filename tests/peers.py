"""Subscribers as raw sockets on loopback, who say what no well-behaved server says; and the sender that meets them."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

from callback_worker.addresses import AddressPolicy
from callback_worker.delivery import Attempt, Result
from callback_worker.destination import DestinationPolicy
from callback_worker.sender import Sender
from shared.clock import now_utc
from shared.signing_keys import parse_key

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = DestinationPolicy(AddressPolicy((ip_network("127.0.0.0/8"),)))
# A deadline that none of these attempts needs, and one for those that are ended by it.
TIMEOUT_S = 15.0
BRIEF_TIMEOUT_S = 1.0
BODY = '{"type":"session.started","timestamp":"2026-05-04T12:00:00.000Z","data":{"sequence":1,"name":"Zürich"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
# How long they last, on a busy machine, too.
SOON_MS = range(10_000)
IN_TIME_MS = range(round(BRIEF_TIMEOUT_S * 1000) - 50, 10_000)

Serve = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that reads a request, then does as it was told. Counts its connections and keeps the requests."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.requests: list[bytes] = []
        self.connections = 0
        self._open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def close(self) -> None:
        """End every connection."""
        for task, writer in self._open.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.wait(self._open)
        await asyncio.sleep(0)  # the event loop closes what was aborted

    async def ended(self) -> None:
        """Wait until the other side has hung up on every connection, or the server has."""
        await asyncio.wait(self._open)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = next(int(x.split(b":")[1]) for x in request.lower().split(b"\r\n") if b"content-length" in x)
                self.requests.append(request + await reader.readexactly(length))
                await self._serve(self.requests[-1], reader, writer)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def peer(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Peer, str]]:
    """Listen on loopback; yields the peer and its URL."""
    made = Peer(serve)
    server = await asyncio.start_server(made, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield made, f"{'https' if tls else 'http'}://127.0.0.1:{port}/callback?secret=1"
    finally:
        server.close()
        if made.connections:
            await made.close()


def saying(*parts: bytes, pause_s: float = 0.0, close: bool = False) -> Serve:
    """Write the parts, with a pause before each but the first."""

    async def serve(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index, part in enumerate(parts):
            if index:
                await asyncio.sleep(pause_s)
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return serve


def flooding(head: bytes, part: bytes) -> Serve:
    """Write the head, and then the part until nobody reads any more."""

    async def serve(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return serve


async def no_dns(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "nothing but literals here")


async def to_loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def new_sender(
    *,
    policy: DestinationPolicy = LOOPBACK,
    resolve: Callable[[str, int], Awaitable[Sequence[str]]] = no_dns,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Sender:
    return Sender(
        keys=[parse_key(KEY)], policy=policy, resolve=resolve, timeout_s=timeout_s, clock=now_utc, tls=tls
    )  # fmt: skip


def attempt(url: str, *, body: str = BODY) -> Attempt:
    now = datetime.now(UTC)
    return Attempt(
        callback_id=UUID(int=1), event_id=UUID(int=7), number=1, url=url, destination="127.0.0.1:80", body=body,
        expires_at=now + timedelta(days=3), leased_until=now + timedelta(seconds=25),
    )  # fmt: skip


async def once(sender: Sender, serve: Serve) -> Result:
    """Make one attempt against a server that behaves so."""
    async with peer(serve) as (_, url):
        return await sender.send(attempt(url))


def make_certificate(folder: Path) -> Path | None:
    """Return a file with a self-signed certificate for subscriber.example and its key; None without openssl.

    The certificate alone is beside it, with the suffix `.crt`.
    """
    path = folder / "both.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=subscriber.example", "-addext", "subjectAltName=DNS:subscriber.example",
        "-keyout", str(path), "-out", str(path.with_suffix(".crt")),
    ]  # fmt: skip
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path

"""Listening and serving: sockets that several processes can share, and uvicorn under the process's own signals."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from shared.health import Server
from shared.logs import get_logger

log = get_logger(__name__)

# Requests end within 2 s; the rest is for bodies that are still arriving. The process must be gone within 25 s.
GRACE_S = 20
# Longer than a load balancer's pause between two requests, or it writes into a connection that was just closed.
KEEP_ALIVE_S = 75
BACKLOG = 2048
EXIT_CANNOT_LISTEN = 1

_NO_SUCH_ADDRESS_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for every address of the host; exit with one line when there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        _exit(f"GATEWAY_HOST: {host} has no address: {error.strerror}")
    sockets = []
    # A host may have an address of a family that this machine lacks, as ::1 in a container.
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS_HERE:
                _exit(f"GATEWAY_PORT: cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}")
    if not sockets:
        _exit(f"GATEWAY_HOST: this machine has no address {host}")
    return sockets


def _exit(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)  # noqa: T201 - logs are not configured before the process runs
    raise SystemExit(EXIT_CANNOT_LISTEN)


async def serve(app: ASGIApp, sockets: Sequence[socket.socket], drain: asyncio.Event) -> None:
    """Serve until drained: no new connections, requests in hand are answered, then the app's lifespan ends."""
    config = uvicorn.Config(
        app,
        http=_http_protocol(), ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    server = Server(config)
    stopping = asyncio.create_task(_stop(server, drain))
    log.info("gateway_listening", addresses=[f"{name[0]}:{name[1]}" for name in (s.getsockname() for s in sockets)])
    try:
        await server.serve(sockets=list(sockets))
    finally:
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping


async def _stop(server: Server, drain: asyncio.Event) -> None:
    await drain.wait()
    server.should_exit = True


def _http_protocol() -> type[asyncio.Protocol] | str:
    try:
        from gateway.protocol import Protocol  # noqa: PLC0415 - there is no httptools on Windows
    except ImportError:
        return "auto"
    return Protocol

"""Serving on sockets that several processes can share: uvicorn under the process's own signals."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from shared.health import Server
from shared.logs import get_logger

log = get_logger(__name__)

# Requests end within 2 s; the rest is for bodies that are still arriving. The process must be gone within 25 s.
GRACE_S = 20
# Longer than a load balancer's pause between two requests, or it writes into a connection that was just closed.
KEEP_ALIVE_S = 75


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

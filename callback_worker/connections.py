"""The pool of connections to subscribers. It dials what an attempt has vetted and nothing else, and asks no DNS.

A connection is used again only by an attempt that vetted its address anew, and only while nothing is left over on it:
it would answer the next callback.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address

import aiohttp
from aiohappyeyeballs import AddrInfoType, start_connection
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from callback_worker.addresses import Address
from callback_worker.conversation import MAX_RESPONSE_BYTES, Conversation
from callback_worker.failures import Phase, TlsFailed, UnaskedBytes
from shared.errors import VoltlineError

# TCP and TLS together, over all addresses; a host that needs longer is as good as dead, and the deadline goes on.
CONNECT_TIMEOUT_S = 3.0
# RFC 8305 §5: after this the next address is tried beside the first.
NEXT_ADDRESS_AFTER_S = 0.25
# Of IPv4 and of IPv6 each. Whoever writes the DNS answer chooses the addresses: with hundreds we would scan a network.
MAX_DIALLED = 4
# Below what servers grant an idle connection (5 s is common): a POST on one that just closed fails for nothing.
KEEPALIVE_S = 2.0
# Many hosts with a callback each leave many idle connections; with those in use they stay below the usual 1,024 files.
MAX_IDLE = 256


@dataclass(slots=True)
class Route:
    """Where an attempt may go, and how far it has come."""

    addresses: Sequence[Address] = ()
    phase: Phase = Phase.DNS


# aiohttp dials in the attempt's own task, and takes no word from it but this.
route: ContextVar[Route] = ContextVar("route")


class StaleConnection(VoltlineError):
    """A pooled connection has ended, carries bytes that nobody asked for, or leads where the name no longer points."""


class Connections(aiohttp.BaseConnector):
    """The pool's lifetime."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE_S)  # slots limit those in use
        self._tls = tls

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],  # noqa: ARG002  # aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002, ASYNC109
    ) -> ResponseHandler:
        """Dial; called by `connect` where the pool has nothing."""
        way = route.get()
        way.phase = Phase.CONNECT
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            dialled = await _dial(_few(way.addresses), req.port)
            if not req.is_ssl():
                return await self._converse(dialled)
            way.phase = Phase.TLS
            return await self._converse_in_tls(dialled, req.url.raw_host)

    async def _converse(self, dialled: socket.socket) -> Conversation:
        made = Conversation(self._loop)
        await self._loop.create_connection(lambda: made, sock=dialled)
        return made

    async def _converse_in_tls(self, dialled: socket.socket, host: str | None) -> Conversation:
        made = Conversation(self._loop)
        name = (host or "").rstrip(".")  # certificates name hosts without the dot of the root
        try:
            await self._loop.create_connection(lambda: made, sock=dialled, ssl=self._tls, server_hostname=name)
        except TimeoutError:
            raise
        except OSError as error:  # of ssl, or of a peer that hangs up
            raise TlsFailed(f"{type(error).__name__}: {error}") from error
        return made

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Take a connection back into the pool; called by aiohttp at an answer's end."""
        is_full = sum(map(len, self._conns.values())) >= MAX_IDLE
        super()._release(key, protocol, should_close=should_close or is_full)


class CheckedRequest(aiohttp.ClientRequest):
    """Looks at the connection before it writes to it."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        conversation, way = conn.protocol, route.get()
        assert isinstance(conversation, Conversation)
        if conversation.address not in way.addresses or conversation.is_spoilt(is_tls=self.is_ssl()):
            raise StaleConnection if conversation.was_used else UnaskedBytes("the server spoke first")
        conversation.ask()
        way.phase = Phase.RESPONSE
        return await super().send(conn)


def _few(addresses: Sequence[Address]) -> list[Address]:
    """Return the first ones of each version; the version that the resolver prefers stays in front."""
    preferred = [address for address in addresses if address.version == addresses[0].version]
    other = [address for address in addresses if address.version != addresses[0].version]
    return [*preferred[:MAX_DIALLED], *other[:MAX_DIALLED]]


async def _dial(addresses: Sequence[Address], port: int | None) -> socket.socket:
    """Return a socket that is connected to the first address that answers. Raises OSError."""
    assert port is not None
    candidates = [_candidate(address, port) for address in addresses]
    return await start_connection(candidates, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, socket_factory=_socket)


def _candidate(address: Address, port: int) -> AddrInfoType:
    if isinstance(address, IPv6Address):
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port))


def _socket(candidate: AddrInfoType) -> socket.socket:
    """Make a socket whose receive buffer keeps an endless answer on the other side."""
    family, kind, protocol, _, _ = candidate
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_RESPONSE_BYTES)
    return made

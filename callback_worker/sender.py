"""One attempt: a signed POST to a vetted address, under one deadline from DNS to the last byte. Never raises.

The status line decides. Of the response body at most 16 KiB are kept, and a connection on which anything is left over,
or on which anything came unasked, is not used again: it would answer the next callback.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection

from callback_worker.delivery import Attempt, Outcome, Result, outcome_of, parse_retry_after
from callback_worker.destination import Blocked, Destination, DestinationPolicy, Resolve, vet
from callback_worker.failures import UnaskedBytes, classify, is_expected
from callback_worker.signature import SigningKey, signature
from shared.errors import VoltlineError
from shared.failures import log_failure
from shared.logs import get_logger

log = get_logger(__name__)

MAX_RESPONSE_BYTES = 16 * 1024
MAX_ERROR_CHARS = 500
# TCP and TLS together; a host that needs longer is as good as dead, and the deadline goes on.
CONNECT_TIMEOUT_S = 3.0
# Below what servers grant an idle connection (5 s is common): a POST on one that just closed fails for nothing.
KEEPALIVE_S = 2.0
USER_AGENT = "Voltline/0.1 (Standard-Webhooks/1.0)"
TRUNCATED = "… [truncated]"

_vetted: ContextVar[Sequence[str]] = ContextVar("vetted")


class _StaleConnection(VoltlineError):
    """A pooled connection has ended or carries bytes that nobody asked for."""


@dataclass(slots=True)
class _Answer:
    """What has arrived so far; it stands when the deadline cuts the rest."""

    status: int | None = None
    retry_after: str | None = None
    location: str | None = None
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False


class Sender:
    """A pool of connections and how to use it. Open it with `async with`."""

    def __init__(
        self,
        *,
        keys: Sequence[SigningKey],
        policy: DestinationPolicy,
        resolve: Resolve,
        timeout_s: float,
        clock: Callable[[], datetime],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self._policy = policy
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._clock = clock
        # The system's authorities, loaded once: aiohttp would do so at import.
        self._tls = tls or ssl.create_default_context()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=_VettedResolver(),
            use_dns_cache=False,
            limit=0,  # slots limit it
            keepalive_timeout=KEEPALIVE_S,
            socket_factory=self._socket,
            ssl=self._tls,
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            request_class=_CheckedRequest,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=MAX_RESPONSE_BYTES,
            skip_auto_headers=("Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def send(self, attempt: Attempt) -> Result:
        """Make the attempt and return how it ended."""
        loop = asyncio.get_running_loop()
        began, answer, failure = loop.time(), _Answer(), None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(attempt, answer)
        except Exception as error:  # an attempt fails, whatever happened to it; the class says how
            failure = error
        duration_ms = round((loop.time() - began) * 1000)
        if answer.status is not None:
            return _answered(answer, duration_ms, self._clock())
        assert failure is not None
        if not is_expected(failure):
            log_failure("attempt_broke", failure, callback_id=str(attempt.callback_id))
        return Result(outcome=classify(failure), duration_ms=duration_ms, error=_error_text(failure))

    async def _exchange(self, attempt: Attempt, answer: _Answer) -> None:
        destination = await vet(attempt.url, self._policy, self._resolve)
        _vetted.set(destination.addresses)
        while True:
            try:
                return await self._post(attempt, destination, answer)
            except _StaleConnection:
                continue  # it is closed now; once the pool is empty, a new one is opened

    async def _post(self, attempt: Attempt, destination: Destination, answer: _Answer) -> None:
        body = attempt.body.encode()
        webhook_id, timestamp = str(attempt.event_id), int(self._clock().timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "accept": "*/*",
            "accept-encoding": "identity",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._keys, webhook_id=webhook_id, timestamp=timestamp, body=body),
        }
        response = await self._http.post(destination.url, data=body, headers=headers, allow_redirects=False)
        try:
            answer.status = response.status
            answer.retry_after = response.headers.get("Retry-After")
            answer.location = response.headers.get("Location")
            await _read(response.content, answer)
        finally:
            # An unfinished body leaves bytes on the connection; aiohttp releases it by itself at the body's end.
            if not answer.complete:
                response.close()

    def _socket(self, info: Any) -> socket.socket:
        """Make a socket for an address. The last gate: nothing is dialled that the policy does not allow."""
        family, kind, protocol, _, target = info
        if not self._policy.addresses.allows(ip_address(target[0])):
            raise Blocked("the host has an address that is not public")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


class _VettedResolver(AbstractResolver):
    """Gives aiohttp the addresses that this attempt vetted. aiohttp asks it in the attempt's own task."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002  # aiohttp's signature
    ) -> list[ResolveResult]:
        return [_resolved(host, port, address) for address in _vetted.get()]

    async def close(self) -> None:
        return


class _CheckedRequest(aiohttp.ClientRequest):
    """Looks at the connection before it writes to it: what is there already is no answer to this request."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        assert protocol is not None
        was_used = getattr(protocol, "was_used", False)
        if protocol.should_close or _is_readable(conn.transport):
            raise _StaleConnection if was_used else UnaskedBytes("the server spoke first")
        protocol.was_used = True  # type: ignore[attr-defined]  # aiohttp does not tell reused from new
        return await super().send(conn)


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether the socket holds bytes, or its end, that the event loop has not read yet."""
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or not hasattr(select, "poll"):  # no poll on Windows
        return peer is None
    poll = select.poll()
    poll.register(peer.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _resolved(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)


async def _read(content: aiohttp.StreamReader, answer: _Answer) -> None:
    """Read until the end or one byte beyond the limit."""
    while len(answer.body) <= MAX_RESPONSE_BYTES:
        chunk = await content.read(MAX_RESPONSE_BYTES + 1 - len(answer.body))
        if not chunk:
            answer.complete = True
            return
        answer.body += chunk


def _answered(answer: _Answer, duration_ms: int, now: datetime) -> Result:
    assert answer.status is not None
    outcome = outcome_of(answer.status)
    redirect = 300 <= answer.status <= 399 and answer.location is not None
    return Result(
        outcome=outcome,
        duration_ms=duration_ms,
        status_code=answer.status,
        error=_storable(f"not followed: {answer.location}")[:MAX_ERROR_CHARS] if redirect else None,
        response_body=_response_text(answer),
        retry_after_s=None if outcome is Outcome.DELIVERED else parse_retry_after(answer.retry_after, now),
    )


def _response_text(answer: _Answer) -> str | None:
    if not answer.body and answer.complete:
        return None
    text = _storable(bytes(answer.body[:MAX_RESPONSE_BYTES]).decode(errors="replace"))
    return text if answer.complete else text + TRUNCATED


def _error_text(error: Exception) -> str:
    if isinstance(error, VoltlineError):
        return str(error)
    return _storable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARS]


def _storable(text: str) -> str:
    """Return the text as Postgres takes it: no NUL, no lone surrogates (aiohttp makes those of odd header bytes)."""
    return text.replace("\0", "").encode(errors="replace").decode()

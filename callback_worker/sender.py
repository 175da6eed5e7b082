"""One attempt: a signed POST to a vetted address, under one deadline from DNS to the last byte. Never raises.

The status line decides, whatever comes behind it. `connections` dials what the policy allows and keeps connections for
the next attempt, `conversation` bounds what a subscriber may say.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

import aiohttp

from callback_worker.connections import CheckedRequest, Connections, Route, StaleConnection, route
from callback_worker.conversation import MAX_HEAD_BYTES, MAX_RESPONSE_BYTES
from callback_worker.delivery import Attempt, Outcome, Result, outcome_of, parse_retry_after
from callback_worker.destination import Destination, DestinationPolicy, Resolve, vet
from callback_worker.failures import Phase, classify, is_expected
from callback_worker.signature import Signer
from shared.errors import VoltlineError
from shared.failures import log_failure
from shared.logs import get_logger
from shared.signing_keys import SigningKey
from shared.signing_pair import SigningPair

log = get_logger(__name__)

MAX_ERROR_CHARS = 500
USER_AGENT = "Voltline/0.1 (Standard-Webhooks/1.0)"
TRUNCATED = "… [truncated]"
_TOO_SLOW = {
    Phase.DNS: "the look-up of the name took too long",
    Phase.CONNECT: "connecting took too long",
    Phase.TLS: "the TLS handshake took too long",
    Phase.RESPONSE: "the answer took too long",
}


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

    def __init__(  # noqa: PLR0913  # what it is made of, each by its name
        self,
        *,
        keys: Sequence[SigningKey],
        pair: SigningPair | None = None,
        policy: DestinationPolicy,
        resolve: Resolve,
        timeout_s: float,
        clock: Callable[[], datetime],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._signer = Signer(tuple(keys), pair)
        self._policy = policy
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._clock = clock
        # The system's authorities, loaded once: aiohttp would do so at import.
        self._tls = tls or ssl.create_default_context()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=Connections(self._tls),
            request_class=CheckedRequest,
            timeout=aiohttp.ClientTimeout(total=None),  # the attempt has its own, over more than aiohttp sees
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=MAX_RESPONSE_BYTES,
            # One limit, on all of a head, in place of three on its parts.
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,
            skip_auto_headers=("Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def send(self, attempt: Attempt) -> Result:
        """Make the attempt and return how it ended."""
        loop = asyncio.get_running_loop()
        began, way, answer, failure = loop.time(), Route(), _Answer(), None
        route.set(way)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(attempt, way, answer)
        except Exception as error:  # an attempt fails, whatever happened to it; the class says how
            failure = error
        duration_ms = round((loop.time() - began) * 1000)
        if failure is not None and not is_expected(failure):
            log_failure("attempt_broke", failure, callback_id=str(attempt.callback_id))
        if answer.status is not None:
            return _answered(answer, duration_ms, self._clock())
        assert failure is not None
        return Result(
            outcome=classify(failure, way.phase), duration_ms=duration_ms, error=_error_text(failure, way.phase)
        )

    async def _exchange(self, attempt: Attempt, way: Route, answer: _Answer) -> None:
        destination = await vet(attempt.url, self._policy, self._resolve)
        way.addresses = destination.addresses
        while True:
            try:
                return await self._post(attempt, destination, answer)
            except StaleConnection:
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
            "webhook-signature": self._signer.sign(
                attempt.client, webhook_id=webhook_id, timestamp=timestamp, body=body
            ),
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


def _error_text(error: Exception, phase: Phase) -> str:
    if isinstance(error, VoltlineError):
        return _storable(str(error))[:MAX_ERROR_CHARS]
    if isinstance(error, TimeoutError):
        return _TOO_SLOW[phase]
    if phase is Phase.CONNECT and isinstance(error, OSError):  # its own text names the address
        return f"no connection: {os.strerror(error.errno)}" if error.errno else "no connection"
    return _storable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARS]


def _storable(text: str) -> str:
    """Return the text as Postgres takes it: no NUL, no lone surrogates (aiohttp makes those of odd header bytes)."""
    return text.replace("\0", "").encode(errors="replace").decode()

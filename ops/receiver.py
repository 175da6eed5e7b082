"""A subscriber for the demo and the tests: takes callbacks on loopback and records each with its headers and raw body.

It can be told to answer otherwise than 204, and to verify signatures with the Standard Webhooks library, which shares
no code with the sender.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook

# A callback is an event of a session whose metadata may be 16 KiB; this is far beyond.
BODY_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Callback:
    """One received attempt, as it came."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    received_at: float  # seconds since the epoch
    verified: bool  # False as well where the receiver has no key

    @property
    def id(self) -> str:
        """The event's id, the same on every attempt."""
        return self.headers.get("webhook-id", "")

    @cached_property
    def json(self) -> dict[str, Any]:
        """The parsed body."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def type(self) -> str:
        """The event's type, `session.completed` for example."""
        return str(self.json["type"])

    @property
    def data(self) -> dict[str, Any]:
        """The event's own part of the body."""
        found: dict[str, Any] = self.json["data"]
        return found


@dataclass(frozen=True)
class Answer:
    """What the receiver says to a callback, and how long it thinks before."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0


def _accept(_: Callback) -> Answer:
    return Answer()


class Receiver:
    """An HTTP server's lifetime. `answer` may be replaced at any time; it decides for each callback."""

    def __init__(self, signing_key: str | None = None) -> None:
        self.callbacks: list[Callback] = []
        self.answer: Callable[[Callback], Answer] = _accept
        self._webhook = Webhook(signing_key) if signing_key else None
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._origin = ""

    async def open(self, host: str = "127.0.0.1", port: int = 0, public_host: str | None = None) -> None:
        """Listens; port 0 takes any. `public_host` is how the callback worker reaches `host` where that differs."""
        application = web.Application(client_max_size=BODY_LIMIT_BYTES)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=1024).start()
        self._origin = f"http://{public_host or host}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stops listening; what was recorded stays."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def url(self, path: str = "") -> str:
        """A callback URL that ends here."""
        return f"{self._origin}/{path.removeprefix('/')}"

    async def wait_for(
        self, wanted: Callable[[Callback], bool], *, count: int = 1, timeout_s: float = 30
    ) -> list[Callback]:
        """The callbacks that are `wanted`, once there are at least `count`; raises `TimeoutError`."""

        def enough() -> bool:
            return sum(map(wanted, self.callbacks)) >= count

        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(enough)
        return [callback for callback in self.callbacks if wanted(callback)]

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        callback = Callback(request.path, headers, body, time.time(), self._verifies(body, headers))
        answer = self.answer(callback)
        self.callbacks.append(callback)
        async with self._arrived:
            self._arrived.notify_all()
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)

    def _verifies(self, body: bytes, headers: dict[str, str]) -> bool:
        if self._webhook is None:
            return False
        try:
            self._webhook.verify(body, headers)
        # The library lets ValueError, binascii.Error and others through besides its own error; all mean "no".
        except Exception:
            return False
        return True

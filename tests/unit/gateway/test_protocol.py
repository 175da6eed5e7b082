"""What a connection may cost before there is a request: bounded bytes, bounded time."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gateway.server import serve


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server in this process that says "ok"."""

    async def say_ok(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    drain = asyncio.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    number: int = listening.getsockname()[1]
    serving = asyncio.create_task(serve(Starlette(routes=[Route("/", say_ok)]), [listening], drain))
    yield number
    drain.set()
    await serving


def check_refused(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nx: ", b"GET /"])
async def test_an_endless_header_or_address_is_cut(port: int, beginning: bytes) -> None:
    """431 after 64 KiB, and the connection ends: the rest is never taken into memory."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(beginning)
    answer = asyncio.create_task(reader.read())
    while not answer.done():
        writer.write(b"a" * 16_384)
        await asyncio.sleep(0.01)
    check_refused(await answer, 431)
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_a_connection_that_does_not_ask_is_closed(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing sent, and with a head that never ends; also after an answered request."""
    monkeypatch.setattr("gateway.protocol.HEAD_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    check_refused(await reader.read(), 408)
    writer.close()


async def test_the_limits_begin_anew_with_every_request(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests in pieces on one connection are served; the time limit is on heads, not on the pause between them."""
    monkeypatch.setattr("gateway.protocol.HEAD_TIMEOUT_S", 2.0)
    monkeypatch.setattr("gateway.protocol.MAX_HEAD_BYTES", 100)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(4):
        for piece in (b"GET / HTTP/1.1\r\n", b"host: x\r\n", b"x: " + b"a" * 50, b"\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    await asyncio.sleep(2.2)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    writer.close()

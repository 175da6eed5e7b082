"""One attempt against a subscriber that means well; tests/integration/test_hostile_* have those that do not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from callback_worker import connections
from callback_worker.conversation import MAX_RESPONSE_BYTES
from callback_worker.delivery import Outcome
from callback_worker.sender import Sender
from tests.peers import BODY, KEY, OK, attempt, new_sender, once, peer, saying, to_loopback


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async with new_sender() as opened:
        yield opened


async def test_the_request_is_a_signed_standard_webhook(sender: Sender) -> None:
    """Body byte for byte, headers of Standard Webhooks 1.0, nothing compressed asked for."""
    async with peer(saying(OK)) as (server, url):
        result = await sender.send(attempt(url))
    assert (result.outcome, result.status_code, result.response_body) == (Outcome.DELIVERED, 200, "ok")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    assert line == "POST /callback?secret=1 HTTP/1.1"
    assert body == BODY.encode()
    assert headers["host"] == url.split("/")[2]
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("Voltline/")
    assert headers["webhook-id"] == str(UUID(int=7))
    Webhook(KEY).verify(body, headers)


async def test_the_request_line_has_the_url_as_it_was_given(sender: Sender) -> None:
    """The HTTP client spells nothing in another way; what could end the line has never come so far."""
    async with peer(saying(OK)) as (server, url):
        origin = url.removesuffix("/callback?secret=1")
        for path in (
            "/%7Ea/../b?y=%2f&sig=a%2Bb+c%3d",
            "/%zz?[é]",
            "?x",
            "/x HTTP/1.1\r\nInjected: 1",
            "/%0d%0aInjected:%201",
        ):
            await sender.send(attempt(origin + path))
    lines = [request.split(b"\r\n", 1)[0].decode() for request in server.requests]
    wanted = ["/%7Ea/../b?y=%2f&sig=a%2Bb+c%3d", "/%25zz?%5B%C3%A9%5D", "/?x", "/%0d%0aInjected:%201"]
    assert lines == [f"POST {path} HTTP/1.1" for path in wanted]
    assert not any(b"\nInjected" in request for request in server.requests)


@pytest.mark.parametrize("size", [0, 1, MAX_RESPONSE_BYTES - 1, MAX_RESPONSE_BYTES])
async def test_a_body_within_the_limit_is_kept_whole_and_its_connection_used_again(sender: Sender, size: int) -> None:
    """Keep-alive, where nothing is left over."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"z" * size
    async with peer(saying(whole)) as (server, url):
        results = [await sender.send(attempt(url)) for _ in range(3)]
    assert {result.response_body for result in results} == {"z" * size or None}
    assert server.connections == 1


async def test_the_vetted_address_is_dialled_with_the_original_host() -> None:
    """The name is resolved once, by us; the HTTP client asks nobody."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        assert host == "subscriber.example"
        return ["127.0.0.1"]

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        result = await named.send(attempt(url.replace("127.0.0.1", "subscriber.example")))
    assert result.outcome is Outcome.DELIVERED
    assert b"Host: subscriber.example:" in server.requests[0]


async def test_a_connection_closed_without_an_answer_is_a_connection_failure(sender: Sender) -> None:
    assert (await once(sender, saying(close=True))).outcome is Outcome.CONNECTION


async def test_a_refused_connection_is_a_connection_failure(sender: Sender) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = await sender.send(attempt(f"http://127.0.0.1:{unused.getsockname()[1]}/"))
    assert result.outcome is Outcome.CONNECTION


async def test_odd_bytes_of_a_response_can_be_stored(sender: Sender) -> None:
    """Postgres takes neither NUL nor lone surrogates; others become replacement characters."""
    said = b"HTTP/1.1 301 M\r\nLocation: http://\xff\xfe/\r\nContent-Length: 5\r\n\r\na\x00\xffb\xc3"
    result = await once(sender, saying(said))
    assert result.response_body == "a\ufffdb\ufffd"
    assert result.error is not None
    result.error.encode()


async def test_a_connection_that_idled_for_too_long_is_not_used(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may be about to end it, and would take the callback with it."""
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.02)
    async with new_sender() as opened, peer(saying(OK)) as (server, url):
        for _ in range(2):
            assert (await opened.send(attempt(url))).outcome is Outcome.DELIVERED
            await asyncio.sleep(0.05)
    assert server.connections == 2


async def test_a_connection_that_the_server_ended_is_replaced_unnoticed(sender: Sender) -> None:
    """Its end is seen before the next callback is written to it."""
    async with peer(saying(OK, close=True)) as (server, url):
        results = [await sender.send(attempt(url)) for _ in range(4)]
    assert {result.outcome for result in results} == {Outcome.DELIVERED}
    assert server.connections == 4


async def test_idle_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback each to very many hosts leaves but some open; a file descriptor each is what a process runs out of."""
    monkeypatch.setattr(connections, "MAX_IDLE", 3)
    async with new_sender(resolve=to_loopback) as named, peer(saying(OK)) as (server, url):
        for number in range(10):
            result = await named.send(attempt(url.replace("127.0.0.1", f"h{number}.example")))
            assert result.outcome is Outcome.DELIVERED
        assert server.connections == 10
        for number in range(10):
            await named.send(attempt(url.replace("127.0.0.1", f"h{number}.example")))
        assert server.connections == 17


def test_a_socket_takes_in_little_ahead_of_who_reads() -> None:
    """Hundreds of endless answers at once would fill the kernel's memory, and ours, with a default buffer each."""
    with connections._socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 9))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 4 * MAX_RESPONSE_BYTES

"""One attempt against hostile subscribers: raw sockets on loopback that say what no well-behaved server says."""

import asyncio
import gzip
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

import pytest
from standardwebhooks import Webhook

from callback_worker.addresses import AddressPolicy
from callback_worker.delivery import Attempt, Outcome, Result
from callback_worker.destination import DestinationPolicy
from callback_worker.sender import MAX_RESPONSE_BYTES, TRUNCATED, Sender
from callback_worker.signature import parse_key
from shared.clock import now_utc

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = DestinationPolicy(AddressPolicy((ip_network("127.0.0.0/8"),)))
TIMEOUT_S = 0.3
BODY = '{"type":"session.started","timestamp":"2026-05-04T12:00:00.000Z","data":{"sequence":1,"name":"Zürich"}}'

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
            writer.close()
        await asyncio.wait(self._open)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
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


async def no_dns(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "nothing but literals here")


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async with new_sender() as opened:
        yield opened


def new_sender(
    *,
    policy: DestinationPolicy = LOOPBACK,
    resolve: Callable[[str, int], Awaitable[Sequence[str]]] = no_dns,
    tls: ssl.SSLContext | None = None,
) -> Sender:
    return Sender(
        keys=[parse_key(KEY)], policy=policy, resolve=resolve, timeout_s=TIMEOUT_S, clock=now_utc, tls=tls
    )  # fmt: skip


def attempt(url: str, *, body: str = BODY) -> Attempt:
    now = datetime.now(UTC)
    return Attempt(
        callback_id=UUID(int=1), event_id=UUID(int=7), number=1, url=url, host="127.0.0.1", body=body,
        expires_at=now + timedelta(days=3), leased_until=now + timedelta(seconds=25),
    )  # fmt: skip


async def once(sender: Sender, serve: Serve) -> Result:
    async with peer(serve) as (_, url):
        return await sender.send(attempt(url))


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


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


async def test_a_dripping_body_is_cut_at_the_deadline_and_the_status_decides(sender: Sender) -> None:
    """The deadline is one for the whole attempt, not one per read."""
    drip = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *[b"x"] * 100, pause_s=0.02)
    result = await once(sender, drip)
    assert result.outcome is Outcome.DELIVERED
    assert 250 <= result.duration_ms <= 600
    assert result.response_body is not None
    assert result.response_body.startswith("xxx")
    assert result.response_body.endswith(TRUNCATED)


async def test_dripping_headers_are_a_timeout(sender: Sender) -> None:
    """No status line, no decision."""
    result = await once(sender, saying(b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 100, pause_s=0.02))
    assert (result.outcome, result.status_code) == (Outcome.TIMEOUT, None)
    assert 250 <= result.duration_ms <= 600


async def test_silence_is_a_timeout(sender: Sender) -> None:
    """The commonest dead subscriber."""
    result = await once(sender, saying())
    assert result.outcome is Outcome.TIMEOUT


async def test_a_storm_of_informational_responses_is_a_timeout(sender: Sender) -> None:
    """1xx are no answer, however many come."""
    result = await once(sender, saying(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 50, pause_s=0.02))
    assert (result.outcome, result.status_code) == (Outcome.TIMEOUT, None)


async def test_an_endless_body_is_cut_at_16_kib(sender: Sender) -> None:
    """What is beyond stays on the wire, and the connection is closed."""

    async def endless(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"y" * 4096)
            await writer.drain()

    result = await once(sender, endless)
    assert result.outcome is Outcome.DELIVERED
    assert result.response_body == "y" * MAX_RESPONSE_BYTES + TRUNCATED
    assert result.duration_ms < 250


async def test_a_gzip_bomb_is_not_unpacked(sender: Sender) -> None:
    """51 kB that would become 52 MB: raw bytes are kept, 16 KiB of them."""
    bomb = gzip.compress(b"0" * 52_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    result = await once(sender, saying(head + bomb))
    assert result.outcome is Outcome.DELIVERED
    assert result.response_body is not None
    assert len(result.response_body) <= MAX_RESPONSE_BYTES + len(TRUNCATED)
    assert result.response_body.endswith(TRUNCATED)


@pytest.mark.parametrize("size", [0, 1, MAX_RESPONSE_BYTES - 1, MAX_RESPONSE_BYTES])
async def test_a_body_within_the_limit_is_kept_whole_and_its_connection_used_again(sender: Sender, size: int) -> None:
    """Keep-alive, where nothing is left over."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"z" * size
    async with peer(saying(whole)) as (server, url):
        results = [await sender.send(attempt(url)) for _ in range(3)]
    assert {result.response_body for result in results} == {"z" * size or None}
    assert server.connections == 1


LEFT_OVERS = {
    "a body to a 204": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "a second answer": OK + b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "more than Content-Length": OK + b"junk",
    "half an answer": OK + b"HTTP/1.1 41",
}


@pytest.mark.parametrize("said", LEFT_OVERS.values(), ids=LEFT_OVERS.keys())
@pytest.mark.parametrize("pause_s", [0, 0.01])
async def test_what_a_server_says_unasked_never_answers_the_next_callback(
    sender: Sender, said: bytes, pause_s: float
) -> None:
    """Left-over bytes close the connection, whether they come with the answer or while it is idle."""
    answer, left = (said[: len(said) - 4], said[-4:]) if pause_s else (said, b"")
    async with peer(saying(answer, left, pause_s=pause_s)) as (_, url):
        for _ in range(4):
            result = await sender.send(attempt(url))
            # aiohttp's parser may refuse junk and answer together: that callback is retried, but not taken for gone.
            assert result.outcome in (Outcome.DELIVERED, Outcome.PROTOCOL)
            await asyncio.sleep(2 * pause_s)


async def test_bytes_that_came_while_the_event_loop_slept_are_seen_before_the_next_request(sender: Sender) -> None:
    """They lie in the socket, where only asking the kernel finds them."""
    released = asyncio.Event()

    async def late(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await released.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    async with peer(late) as (server, url):
        assert (await sender.send(attempt(url))).outcome is Outcome.DELIVERED
        released.set()
        await asyncio.sleep(0)  # the server writes; nothing has polled our socket since
        result = await sender.send(attempt(url))
    assert result.outcome is Outcome.DELIVERED
    assert server.connections == 2


async def test_a_server_that_speaks_first_is_a_protocol_failure(sender: Sender) -> None:
    """Its banner is no answer; one connection is tried, not many."""
    connections = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    result = await sender.send(attempt(url))
    server.close()
    assert result.outcome in (Outcome.PROTOCOL, Outcome.DELIVERED)  # which, is up to who comes first
    assert connections == 1


async def test_a_reset_in_mid_body_leaves_the_decision_to_the_status(sender: Sender) -> None:
    """The subscriber has said that it took the callback."""
    result = await once(sender, saying(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart", close=True))
    assert (result.outcome, result.response_body) == (Outcome.DELIVERED, "part" + TRUNCATED)


async def test_a_connection_closed_without_an_answer_is_a_connection_failure(sender: Sender) -> None:
    assert (await once(sender, saying(close=True))).outcome is Outcome.CONNECTION


async def test_a_refused_connection_is_a_connection_failure(sender: Sender) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = await sender.send(attempt(f"http://127.0.0.1:{unused.getsockname()[1]}/"))
    assert result.outcome is Outcome.CONNECTION


@pytest.mark.parametrize(
    "said", [b"hello\r\n\r\n", b"HTTP/1.1 xyz Hm\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"]
)
async def test_what_is_not_http_is_a_protocol_failure(sender: Sender, said: bytes) -> None:
    assert (await once(sender, saying(said))).outcome is Outcome.PROTOCOL


async def test_headers_beyond_the_limit_are_too_large(sender: Sender) -> None:
    """Told from malformed ones by the cause's type."""
    result = await once(sender, saying(b"HTTP/1.1 200 OK\r\nX: " + b"h" * 100_000 + b"\r\n\r\n"))
    assert result.outcome is Outcome.TOO_LARGE


async def test_a_redirect_is_recorded_and_not_followed(sender: Sender) -> None:
    """It might lead anywhere."""
    async with peer(saying(OK)) as (inner, target):
        location = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + target.encode() + b"\r\n\r\n"
        result = await once(sender, saying(location))
    assert (result.outcome, result.status_code) == (Outcome.REFUSED_STATUS, 302)
    assert result.error == f"not followed: {target}"
    assert inner.connections == 0


async def test_odd_bytes_of_a_response_can_be_stored(sender: Sender) -> None:
    """Postgres takes neither NUL nor lone surrogates; others become replacement characters."""
    said = b"HTTP/1.1 301 M\r\nLocation: http://\xff\xfe/\r\nContent-Length: 5\r\n\r\na\x00\xffb\xc3"
    result = await once(sender, saying(said))
    assert result.response_body == "a\ufffdb\ufffd"
    assert result.error is not None
    result.error.encode()


async def test_a_proxy_of_the_environment_is_not_used(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would dial for us whatever it likes."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert (await once(sender, saying(OK))).outcome is Outcome.DELIVERED


async def test_a_blocked_destination_is_not_dialled() -> None:
    async with peer(saying(OK)) as (server, url), new_sender(policy=DestinationPolicy(AddressPolicy())) as strict:
        result = await strict.send(attempt(url))
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "the host has an address that is not public")
    assert server.connections == 0


async def test_the_vetted_address_is_dialled_with_the_original_host() -> None:
    """The name is resolved once, by us; the HTTP client asks nobody."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        assert host == "subscriber.example"
        return ["127.0.0.1"]

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        result = await named.send(attempt(url.replace("127.0.0.1", "subscriber.example")))
    assert result.outcome is Outcome.DELIVERED
    assert b"Host: subscriber.example:" in server.requests[0]


async def test_rebinding_between_two_attempts_is_blocked_even_with_a_connection_in_the_pool() -> None:
    """Every attempt vets what the name means now."""
    answers = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return list(answers)

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        rebind = attempt(url.replace("127.0.0.1", "rebind.example"))
        assert (await named.send(rebind)).outcome is Outcome.DELIVERED
        answers.append("10.0.0.1")
        assert (await named.send(rebind)).outcome is Outcome.BLOCKED
    assert len(server.requests) == 1


async def test_a_name_that_does_not_exist_is_a_dns_failure(sender: Sender) -> None:
    assert (await sender.send(attempt("http://nothing.example/"))).outcome is Outcome.DNS


async def test_dns_counts_toward_the_deadline() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with new_sender(resolve=never) as stuck:
        assert (await stuck.send(attempt("http://slow.example/"))).outcome is Outcome.TIMEOUT


async def test_plain_http_on_a_tls_port_is_a_tls_failure(sender: Sender) -> None:
    async with peer(saying(OK)) as (_, url):
        result = await sender.send(attempt(url.replace("http://", "https://")))
    assert result.outcome in (Outcome.TLS, Outcome.TIMEOUT, Outcome.CONNECTION)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for subscriber.example, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=subscriber.example", "-addext", "subjectAltName=DNS:subscriber.example",
         "-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip("no openssl to make a certificate")
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@asynccontextmanager
async def tls_peer(certificate: Path) -> AsyncIterator[tuple[Peer, str, list[str | None]]]:
    """A peer that speaks TLS and notes the names that clients ask for."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    async with peer(saying(OK), tls=context) as (server, url):
        yield server, url, names


async def test_tls_asks_for_the_original_name_at_the_vetted_address(
    certificate: Path,
) -> None:
    """SNI and the certificate's name are the URL's; a certificate for another name is refused."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    trusting = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    async with tls_peer(certificate) as (server, url, names), new_sender(resolve=resolve, tls=trusting) as named:
        right = await named.send(attempt(url.replace("127.0.0.1", "subscriber.example")))
        wrong = await named.send(attempt(url.replace("127.0.0.1", "other.example")))
    assert (right.outcome, wrong.outcome) == (Outcome.DELIVERED, Outcome.TLS)
    assert names == ["subscriber.example", "other.example"]
    assert len(server.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure(certificate: Path) -> None:
    """Self-signed, as many a test server is."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with tls_peer(certificate) as (server, url, _), new_sender(resolve=resolve) as named:
        result = await named.send(attempt(url.replace("127.0.0.1", "subscriber.example")))
    assert result.outcome is Outcome.TLS
    assert server.requests == []

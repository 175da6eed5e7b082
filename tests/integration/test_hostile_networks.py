"""Where a subscriber may lead an attempt: names, addresses, handshakes and proxies that are not what they should be.

The real sender over real sockets; `on_uvloop` runs the same on the event loop that the workers use.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from callback_worker import connections
from callback_worker.addresses import AddressPolicy
from callback_worker.delivery import Outcome
from callback_worker.destination import DestinationPolicy
from callback_worker.sender import Sender
from tests.peers import (
    BRIEF_TIMEOUT_S,
    GONE,
    IN_TIME_MS,
    OK,
    SOON_MS,
    Peer,
    Serve,
    attempt,
    flooding,
    make_certificate,
    new_sender,
    once,
    peer,
    saying,
    to_loopback,
)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async with new_sender() as opened:
        yield opened


@pytest.fixture
async def brief() -> AsyncIterator[Sender]:
    """Its deadline ends what does not end by itself."""
    async with new_sender(timeout_s=BRIEF_TIMEOUT_S) as opened:
        yield opened


# Connecting.


@contextmanager
def black_hole() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops every further SYN."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


async def test_a_syn_black_hole_is_a_timeout_of_connecting(brief: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told from a slow handshake of TLS, and from a slow answer. The deadline ends it, not connecting's own limit."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 60.0)
    with black_hole() as port:
        results = [await brief.send(attempt(f"{scheme}://127.0.0.1:{port}/")) for scheme in ("http", "https")]
    for result in results:
        assert (result.outcome, result.error) == (Outcome.TIMEOUT_CONNECT, "connecting took too long")
        assert result.duration_ms in IN_TIME_MS


async def test_connecting_has_a_limit_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all addresses of the name, however many there are."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 0.2)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] * 4

    with black_hole() as port:
        async with new_sender(resolve=resolve) as patient:
            result = await patient.send(attempt(f"http://dead.example:{port}/"))
    assert result.outcome is Outcome.TIMEOUT_CONNECT
    assert result.duration_ms in range(180, SOON_MS.stop)


async def test_a_name_with_hundreds_of_addresses_does_not_make_a_port_scanner_of_us() -> None:
    """All are judged, the first few are dialled."""
    with ExitStack() as opened:
        first = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        listening = [opened.enter_context(socket.create_server((f"127.0.1.{last}", port))) for last in range(1, 20)]
        addresses = [f"127.0.0.{last}" for last in range(2, 2 + connections.MAX_DIALLED)]  # where nobody listens

        async def resolve(host: str, port: int) -> Sequence[str]:
            return [*addresses, *(each.getsockname()[0] for each in listening)]

        async with new_sender(resolve=resolve) as named:
            result = await named.send(attempt(f"http://many.example:{port}/"))
        for each in listening:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.accept()
    assert (result.outcome, result.error) == (Outcome.CONNECTION, "no connection: Connection refused")


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for subscriber.example, with its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    if made is None:
        pytest.skip("no openssl to make a certificate")
    return made


@asynccontextmanager
async def tls_peer(certificate: Path, serve: Serve | None = None) -> AsyncIterator[tuple[Peer, str, list[str | None]]]:
    """A peer that speaks TLS and notes the names that clients ask for; its URL is of subscriber.example."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    async with peer(serve or saying(OK), tls=context) as (server, url):
        yield server, url.replace("127.0.0.1", "subscriber.example"), names


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))


async def test_a_certificate_for_another_host_is_a_tls_failure(certificate: Path) -> None:
    """SNI and the name that is compared are the URL's, at the vetted address."""
    async with (
        tls_peer(certificate) as (server, url, names),
        new_sender(resolve=to_loopback, tls=trusting(certificate)) as named,
    ):
        right = await named.send(attempt(url))
        wrong = await named.send(attempt(url.replace("subscriber", "other")))
    assert (right.outcome, wrong.outcome) == (Outcome.DELIVERED, Outcome.TLS)
    assert names == ["subscriber.example", "other.example"]
    assert len(server.requests) == 1
    assert wrong.error is not None
    assert "certificate" in wrong.error


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure(certificate: Path) -> None:
    """Self-signed, as many a test server is."""
    async with tls_peer(certificate) as (server, url, _), new_sender(resolve=to_loopback) as named:
        result = await named.send(attempt(url))
    assert result.outcome is Outcome.TLS
    assert server.requests == []


async def test_every_new_tls_connection_serves_and_is_used_again(certificate: Path) -> None:
    """Session tickets arrive before we have asked anything; they are no left-overs."""
    async with (
        tls_peer(certificate) as (server, url, _),
        new_sender(resolve=to_loopback, tls=trusting(certificate)) as named,
    ):
        results = await asyncio.gather(*(named.send(attempt(url)) for _ in range(20)))
        again = await named.send(attempt(url))
    assert {result.outcome for result in results} == {again.outcome} == {Outcome.DELIVERED}
    assert server.connections == 20


@asynccontextmanager
async def listening(said: bytes, *, hangs_up: bool) -> AsyncIterator[str]:
    """A server that says this to whoever connects, whatever they say; yields its https URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        if not hangs_up:
            await reader.read()  # until the other side has had enough
        writer.close()
        served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()
    await served.wait()
    await asyncio.sleep(0)


async def test_a_handshake_that_hangs_is_a_timeout_of_tls(brief: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP has connected; the server hello never comes. The deadline ends it, not connecting's own limit."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 60.0)
    async with listening(b"", hangs_up=False) as url:
        result = await brief.send(attempt(url))
    assert (result.outcome, result.error) == (Outcome.TIMEOUT_TLS, "the TLS handshake took too long")
    assert result.duration_ms in IN_TIME_MS


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"])
async def test_a_handshake_that_breaks_off_is_a_tls_failure(sender: Sender, said: bytes) -> None:
    """An end, plain HTTP, or an alert in place of the server hello."""
    async with listening(said, hangs_up=True) as url:
        result = await sender.send(attempt(url))
    assert result.outcome is Outcome.TLS
    assert result.duration_ms in SOON_MS


async def test_a_tls_subscriber_that_takes_no_leave_is_hung_up_on_at_the_deadline(certificate: Path) -> None:
    """TLS ends with a farewell from both sides, and asyncio waits 30 s for theirs."""

    async def deaf(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with (
        tls_peer(certificate, deaf) as (_, url, __),
        new_sender(resolve=to_loopback, tls=trusting(certificate), timeout_s=BRIEF_TIMEOUT_S) as named,
    ):
        before = _open_files()
        result = await named.send(attempt(url))
        await asyncio.sleep(0.05)
        after = _open_files()
    assert result.outcome is Outcome.TIMEOUT_RESPONSE
    assert after <= before + 1  # the server's own end


# Names.


async def test_dns_that_hangs_is_a_timeout_of_dns() -> None:
    """The look-up counts toward the deadline."""

    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with new_sender(resolve=never, timeout_s=BRIEF_TIMEOUT_S) as stuck:
        result = await stuck.send(attempt("http://slow.example/"))
    assert (result.outcome, result.error) == (Outcome.TIMEOUT_DNS, "the look-up of the name took too long")
    assert result.duration_ms in IN_TIME_MS


async def test_a_name_that_does_not_exist_is_a_dns_failure(sender: Sender) -> None:
    assert (await sender.send(attempt("http://nothing.example/"))).outcome is Outcome.DNS


async def test_one_bad_address_among_good_ones_blocks_the_name() -> None:
    """Which of them would be dialled is up to chance and the other side; the reason tells nobody which it is."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "10.0.0.1", "127.0.0.2"]

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        result = await named.send(attempt(url.replace("127.0.0.1", "mixed.example")))
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "the host has an address that is not public")
    assert server.connections == 0


async def test_rebinding_to_a_bad_address_is_blocked_even_with_a_connection_in_the_pool() -> None:
    """Every attempt vets what the name means now."""
    answers = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return list(answers)

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        rebind = attempt(url.replace("127.0.0.1", "rebind.example"))
        assert (await named.send(rebind)).outcome is Outcome.DELIVERED
        answers[:] = ["10.0.0.1"]
        assert (await named.send(rebind)).outcome is Outcome.BLOCKED
    assert len(server.requests) == 1


async def test_a_connection_to_where_a_name_no_longer_points_is_not_used() -> None:
    """The pool keeps connections by address: the second attempt dials what it vetted."""
    answers = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return list(answers)

    async with peer(saying(OK)) as (server, url), new_sender(resolve=resolve) as named:
        moved = attempt(url.replace("127.0.0.1", "moved.example"))
        assert (await named.send(moved)).outcome is Outcome.DELIVERED
        answers[:] = ["127.0.0.2"]
        assert (await named.send(moved)).outcome is Outcome.CONNECTION
        answers[:] = ["127.0.0.2", "127.0.0.1"]
        assert (await named.send(moved)).outcome is Outcome.DELIVERED
    assert server.connections == 2


async def test_a_blocked_destination_is_not_dialled() -> None:
    """Nothing is vouched for here, so loopback is out of bounds."""
    async with peer(saying(OK)) as (server, url), new_sender(policy=DestinationPolicy(AddressPolicy())) as strict:
        result = await strict.send(attempt(url))
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "the host has an address that is not public")
    assert server.connections == 0


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"])
async def test_a_proxy_of_the_environment_is_not_used(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It would dial for us whatever it likes."""
    async with peer(saying(GONE)) as (proxy, url):
        monkeypatch.setenv(name, url)
        assert (await once(sender, saying(OK))).outcome is Outcome.DELIVERED
        async with new_sender(resolve=to_loopback) as named, peer(saying(OK)) as (server, other):
            assert (await named.send(attempt(other.replace("127.0.0.1", "a.example")))).outcome is Outcome.DELIVERED
    assert proxy.connections == 0
    assert server.requests[0].startswith(b"POST /callback?secret=1 HTTP/1.1\r\n")  # a proxy would get the whole URL


async def test_nothing_is_left_open_by_any_of_them() -> None:
    """File descriptors are what a worker runs out of first."""
    behaviours = [
        saying(), saying(OK), saying(OK + b"junk"), saying(b"nonsense\r\n\r\n"), saying(close=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 999),
    ]  # fmt: skip
    async with new_sender(timeout_s=0.05) as brief:  # one that has been used: the loop opens some of its own
        await once(brief, saying(OK))
    before = _open_files()
    async with new_sender(timeout_s=0.05) as brief:
        for behaviour in behaviours:
            await once(brief, behaviour)
        with black_hole() as port:
            await brief.send(attempt(f"https://127.0.0.1:{port}/"))
    await asyncio.sleep(0.05)
    assert _open_files() <= before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

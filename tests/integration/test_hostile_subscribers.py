"""What a subscriber may say to an attempt, meaning it or not: the attempt ends in time, tells how, and harms no other.

The real sender over real sockets; `on_uvloop` runs the same on the event loop that the workers use.
"""

import asyncio
import gzip
import math
import os
import socket
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from callback_worker.conversation import MAX_FRAMED_BODY_BYTES, MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS, MAX_RESPONSE_BYTES
from callback_worker.delivery import Outcome
from callback_worker.sender import TRUNCATED, Sender
from tests.peers import (
    BRIEF_TIMEOUT_S,
    GONE,
    IN_TIME_MS,
    OK,
    SOON_MS,
    TIMEOUT_S,
    attempt,
    flooding,
    new_sender,
    once,
    peer,
    saying,
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


# Bodies: the status line has decided by then.


async def test_a_dripping_body_is_cut_at_the_deadline(brief: Sender) -> None:
    """The deadline is one for the whole attempt, not one per read."""
    drip = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *[b"x"] * 1000, pause_s=0.02)
    result = await once(brief, drip)
    assert result.outcome is Outcome.DELIVERED
    assert result.duration_ms in IN_TIME_MS
    assert result.response_body is not None
    assert result.response_body.startswith("xxx")
    assert result.response_body.endswith(TRUNCATED)


async def test_an_endless_body_is_cut_at_16_kib(sender: Sender) -> None:
    """At once, not at the deadline; and the server gets rid of little more before it is hung up on."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as beside:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = beside.submit(_send_endlessly, listening)
        result = await sender.send(attempt(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
        sent_bytes = await asyncio.wait_for(asyncio.wrap_future(sent), TIMEOUT_S)
    assert sent_bytes <= 8 * MAX_RESPONSE_BYTES
    assert result.outcome is Outcome.DELIVERED
    assert result.response_body == "y" * MAX_RESPONSE_BYTES + TRUNCATED
    assert result.duration_ms in SOON_MS


def _send_endlessly(listening: socket.socket) -> int:
    """Answer as fast as the kernel takes it, until nobody is there; return how many bytes it took."""
    accepted, _ = listening.accept()
    sent = 0
    with accepted, suppress(ConnectionError):
        accepted.recv(65536)
        accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += accepted.send(b"y" * 1024)
    return sent


async def test_chunks_that_are_all_framing_are_cut_too(sender: Sender) -> None:
    """A body of nothing, wrapped in chunk extensions: it never reaches 16 KiB."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    result = await once(sender, flooding(head, b"1;" + b"e" * 1000 + b"\r\nx\r\n"))
    assert result.outcome is Outcome.DELIVERED
    assert result.duration_ms in SOON_MS
    assert result.response_body is not None
    assert result.response_body.endswith(TRUNCATED)
    assert len(result.response_body) < 2 * MAX_FRAMED_BODY_BYTES / 1000


async def test_a_gzip_bomb_is_not_unpacked(sender: Sender) -> None:
    """51 kB that would become 52 MB: raw bytes are kept, 16 KiB of them."""
    bomb = gzip.compress(b"0" * 52_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    result = await once(sender, saying(head + bomb))
    assert result.outcome is Outcome.DELIVERED
    assert result.response_body is not None
    assert result.response_body.startswith("\x1f")
    assert len(result.response_body) <= MAX_RESPONSE_BYTES + len(TRUNCATED)


async def test_a_reset_in_mid_body_leaves_the_decision_to_the_status(sender: Sender) -> None:
    """The subscriber has said that it took the callback."""

    async def reset(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart")
        await asyncio.sleep(0.02)
        peer_socket = writer.transport.get_extra_info("socket")
        peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    result = await once(sender, reset)
    assert (result.outcome, result.response_body) == (Outcome.DELIVERED, "part" + TRUNCATED)
    assert result.duration_ms in SOON_MS


TOO_LONG = b"HTTP/1.1 503 Soon\r\nContent-Length: 50\r\n\r\npart"


async def test_a_content_length_that_is_too_long_leaves_the_decision_to_the_status(sender: Sender) -> None:
    """The server hangs up with less than it promised."""
    result = await once(sender, saying(TOO_LONG, close=True))
    assert (result.outcome, result.response_body) == (Outcome.SERVER_ERROR, "part" + TRUNCATED)
    assert result.duration_ms in SOON_MS


async def test_what_was_promised_and_never_comes_is_waited_for_until_the_deadline(brief: Sender) -> None:
    """The status decides then."""
    result = await once(brief, saying(TOO_LONG))
    assert (result.outcome, result.response_body) == (Outcome.SERVER_ERROR, "part" + TRUNCATED)
    assert result.duration_ms in IN_TIME_MS


LEFT_OVERS = {
    "more than Content-Length": OK + b"junk that is no answer",
    "a body to a 204": b"HTTP/1.1 204 No Content\r\n\r\nthank you",
    "a body to a 204 that is one more answer": b"HTTP/1.1 204 No Content\r\n\r\n" + GONE,
    "a second answer": OK + GONE,
    "half an answer": OK + b"HTTP/1.1 41",
    "an answer and junk behind informational ones": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"\0junk",
}


@pytest.mark.parametrize("said", LEFT_OVERS.values(), ids=LEFT_OVERS.keys())
async def test_what_stands_behind_an_answer_neither_undoes_it_nor_answers_the_next_callback(
    sender: Sender, said: bytes
) -> None:
    """A Content-Length that is too short, a 204 with a body: the status counts, the connection is not used again."""
    async with peer(saying(said)) as (server, url):
        results = [await sender.send(attempt(url)) for _ in range(4)]
    assert [result.outcome for result in results] == [Outcome.DELIVERED] * 4
    assert server.connections == 4


@pytest.mark.parametrize("left", [b"junk", GONE, b"HTTP/1.1 41", b"\n"])
async def test_what_comes_while_a_connection_is_idle_does_not_answer_the_next_callback(
    sender: Sender, left: bytes
) -> None:
    """It closes the connection, even where it is the harmless beginning of something."""
    async with peer(saying(OK, left, pause_s=0.01)) as (server, url):
        for _ in range(3):
            assert (await sender.send(attempt(url))).outcome is Outcome.DELIVERED
            await asyncio.sleep(0.03)
    assert server.connections == 3


async def test_bytes_that_came_while_the_event_loop_slept_are_seen_before_the_next_request(sender: Sender) -> None:
    """They lie in the socket, where only asking the kernel finds them."""
    released = asyncio.Event()

    async def late(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await released.wait()
        os.write(writer.transport.get_extra_info("socket").fileno(), GONE)

    async with peer(late) as (server, url):
        assert (await sender.send(attempt(url))).outcome is Outcome.DELIVERED
        released.set()
        await asyncio.sleep(0)  # the server writes; nothing has polled our socket since
        result = await sender.send(attempt(url))
    assert result.outcome is Outcome.DELIVERED
    assert server.connections == 2


async def test_a_server_that_speaks_first_is_asked_once(sender: Sender) -> None:
    """Its banner is no answer where it is seen in time; one connection is tried, not many."""
    connected = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    result = await sender.send(attempt(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    server.close()
    assert result.outcome in (Outcome.PROTOCOL, Outcome.DELIVERED)  # which, is up to who comes first
    assert connected == 1


# Heads.


async def test_dripping_headers_are_a_timeout_of_the_response(brief: Sender) -> None:
    """A status line alone decides nothing: the head has no end."""
    result = await once(brief, saying(b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 1000, pause_s=0.02))
    assert (result.outcome, result.status_code) == (Outcome.TIMEOUT_RESPONSE, None)
    assert result.duration_ms in IN_TIME_MS
    assert result.error == "the answer took too long"


async def test_silence_is_a_timeout_of_the_response(brief: Sender) -> None:
    """The commonest dead subscriber."""
    result = await once(brief, saying())
    assert result.outcome is Outcome.TIMEOUT_RESPONSE
    assert result.duration_ms in IN_TIME_MS


async def test_a_server_that_accepts_and_reads_nothing_is_a_timeout_of_the_response(brief: Sender) -> None:
    """The kernel has connected for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        result = await brief.send(attempt(f"http://127.0.0.1:{listening.getsockname()[1]}/", body="x" * 100_000))
    assert result.outcome is Outcome.TIMEOUT_RESPONSE
    assert result.duration_ms in IN_TIME_MS


HEADS = {
    "one header line": (b"HTTP/1.1 200 OK\r\nX: ", b"h" * 1000),
    "a status line": (b"HTTP/1.1 200 ", b"h" * 1000),
    "many headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 200),
    "many empty lines": (b"", b"\r\n" * 500),
}


@pytest.mark.parametrize(("head", "part"), HEADS.values(), ids=HEADS.keys())
async def test_a_head_without_end_is_too_large(sender: Sender, head: bytes, part: bytes) -> None:
    """One limit over all of it, and long before the deadline."""
    result = await once(sender, flooding(head, part))
    assert (result.outcome, result.status_code) == (Outcome.TOO_LARGE, None)
    assert result.duration_ms in SOON_MS


@pytest.mark.parametrize(("size", "outcome"), [(-1, Outcome.DELIVERED), (1, Outcome.TOO_LARGE)])
@pytest.mark.parametrize("header", [b"A: " + b"b" * 61, b"A:b"], ids=["few large", "many small"])
async def test_a_head_is_taken_up_to_its_limit(sender: Sender, header: bytes, size: int, outcome: Outcome) -> None:
    """Neither the number of headers nor the size of one matters."""
    count, rest = divmod(MAX_HEAD_BYTES - 50, len(header) + 2)
    padding = b"P:" + b"p" * (50 + rest - len(OK) + 2 - 4 + size)
    head = OK.replace(b"\r\n\r\n", b"\r\n" + (header + b"\r\n") * count + padding + b"\r\n\r\n")
    assert len(head) - len(b"ok") == MAX_HEAD_BYTES + size
    assert (await once(sender, saying(head))).outcome is outcome


async def test_a_storm_of_informational_answers_is_cut_by_their_number(sender: Sender) -> None:
    """Long before the deadline, and before their bytes add up to anything."""
    storm = flooding(b"", b"HTTP/1.1 103 E\r\n\r\n")
    result = await once(sender, storm)
    assert (result.outcome, result.status_code) == (Outcome.PROTOCOL, None)
    assert result.duration_ms in SOON_MS
    assert result.error == f"more than {MAX_INTERIM_ANSWERS} informational answers"


async def test_large_informational_answers_are_cut_by_their_bytes(sender: Sender) -> None:
    """The head's limit is one over all of them."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"l" * (MAX_HEAD_BYTES // 3) + b"\r\n\r\n"
    result = await once(sender, saying(*[hints] * 4, pause_s=0.01))
    assert result.outcome is Outcome.TOO_LARGE


async def test_a_slow_storm_of_informational_answers_ends_at_the_deadline(brief: Sender) -> None:
    """1xx are no answer."""
    result = await once(brief, saying(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 100, pause_s=0.1))
    assert (result.outcome, result.status_code) == (Outcome.TIMEOUT_RESPONSE, None)
    assert result.duration_ms in IN_TIME_MS


async def test_a_few_informational_answers_do_no_harm(sender: Sender) -> None:
    """100 and 103 come from well-behaved servers, too."""
    said = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK
    for parts in ([said], [said[:30], said[30:80], said[80:]], [said[i : i + 1] for i in range(len(said))]):
        result = await once(sender, saying(*parts, pause_s=0.001 if len(parts) < 9 else 0))
        assert (result.outcome, result.status_code, result.response_body) == (Outcome.DELIVERED, 200, "ok")


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n", b"HTTP/1.1 xyz Hm\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
        b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46" * 9,
    ],
)  # fmt: skip
async def test_what_is_not_http_is_a_protocol_failure(sender: Sender, said: bytes) -> None:
    """Whatever it is, the attempt ends with it."""
    result = await once(sender, saying(said, close=not said.startswith(b"HTTP")))
    assert result.outcome in (Outcome.PROTOCOL, Outcome.CONNECTION)
    assert result.duration_ms in SOON_MS


# Answers that ask for something.


async def test_a_redirect_to_an_internal_address_is_recorded_and_not_followed(sender: Sender) -> None:
    """It might lead anywhere."""
    async with peer(saying(OK)) as (inner, target):
        location = b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nLocation: " + target.encode() + b"\r\n\r\n"
        result = await once(sender, saying(location))
    assert (result.outcome, result.status_code) == (Outcome.REFUSED_STATUS, 307)
    assert result.error == f"not followed: {target}"
    assert inner.connections == 0


async def test_410_is_an_answer(sender: Sender) -> None:
    """`delivery` makes `gone` of it."""
    result = await once(sender, saying(GONE))
    assert (result.outcome, result.status_code) == (Outcome.REFUSED_STATUS, 410)


IN_AN_HOUR = "the date of one hour from now"
RETRY_AFTER = {
    "seconds": ("120", 120), "a date": (IN_AN_HOUR, 3600), "a negative": ("-5", None),
    "huge": ("9" * 400, math.inf), "garbage": ("\x01soon\xff\x80, maybe; q=NaN", None), "nothing": ("", None),
    "a date long past": ("Thu, 01 Jan 1970 00:00:00 GMT", None), "no date": ("Mon, 99 Foo 20260 99:99:99 GMT", None),
}  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER.values(), ids=RETRY_AFTER.keys())
@pytest.mark.parametrize(("status", "outcome"), [(429, Outcome.THROTTLED), (503, Outcome.SERVER_ERROR)])
async def test_retry_after_is_understood_or_ignored(
    sender: Sender, status: int, outcome: Outcome, value: str, seconds: float | None
) -> None:
    """What is understood is a floor, however high."""
    if value == IN_AN_HOUR:  # from now, not from when the tests were collected
        value = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    head = b"HTTP/1.1 %d Wait\r\nContent-Length: 0\r\nRetry-After: %b\r\n\r\n" % (status, value.encode("latin-1"))
    result = await once(sender, saying(head))
    if value.startswith("\x01"):  # the parser may refuse the whole head for it
        assert result.outcome in (outcome, Outcome.PROTOCOL)
    else:
        assert result.outcome is outcome
    assert result.retry_after_s == (seconds if seconds is None else pytest.approx(seconds, abs=300))

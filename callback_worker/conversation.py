"""One connection to a subscriber: how much it may say, and when.

aiohttp's parser reads what it says. Before the parser: bytes that belong to no answer spoil the connection; a head is
bounded in bytes and its informational answers in number; and a head is handed over apart from what follows, so that
nonsense behind a good status line does not undo it.
"""

import asyncio
import re
import select
from ipaddress import ip_address

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

from callback_worker.addresses import Address
from callback_worker.failures import HeadTooLarge, InterimStorm

# Of the body, what is kept; more is not read on purpose.
MAX_RESPONSE_BYTES = 16 * 1024
# Status line and headers, those of informational answers included. Proxies' own limits are 4 to 16 KiB.
MAX_HEAD_BYTES = 32 * 1024
# Servers send one or two before the real one (RFC 9110 §15.2).
MAX_INTERIM_ANSWERS = 16
# A body with its framing: chunks of a byte, with extensions, make a multiple of little.
MAX_FRAMED_BODY_BYTES = 4 * MAX_RESPONSE_BYTES

_HEAD_END = re.compile(rb"[^\r\n]\r?\n\r?\n")
# The longest beginning of such an end.
_CARRIED_BYTES = 4


class Conversation(ResponseHandler):
    """A connection's lifetime. `ask` opens it for one answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.address: Address | None = None
        self.was_used = False
        self._is_in_head = False
        self._head_end = b""
        self._head_bytes = self._body_bytes = self._interim_answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = ip_address(peer[0]) if peer else None

    def is_spoilt(self, *, is_tls: bool) -> bool:
        """Whether the connection has ended, or holds bytes that would be taken for the next answer."""
        # A new TLS connection is readable for a good reason: session tickets. A used one is not worth the doubt.
        return self.should_close or ((self.was_used or not is_tls) and _is_readable(self.transport))

    def ask(self) -> None:
        """Expect an answer from now on."""
        self.was_used = self._is_in_head = True
        self._head_end = b""
        self._head_bytes = self._body_bytes = self._interim_answers = 0

    def close(self) -> None:
        """End at once: who reads nothing, or leaves TLS's farewell unanswered, would hold the connection at will."""
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came over the wire; without data, the parser goes on with what it has."""
        while data and self._is_in_head and self._exception is None:
            head, data = self._split(data)
            self._take_head(head)
        if self._exception is None:
            self._take_body(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take an answer's head from the parser, and hand it to who waits for it."""
        self._is_in_head = is_interim = 100 <= data[0].code <= 199 and data[0].code != 101
        self._interim_answers += is_interim
        if self._interim_answers > MAX_INTERIM_ANSWERS:
            self._refuse(InterimStorm(f"more than {MAX_INTERIM_ANSWERS} informational answers"))
        else:
            super().feed_data(data, size)

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what belongs to the head, as far as it has come, and what follows it."""
        carried = len(self._head_end)
        found = _HEAD_END.search(self._head_end + data)
        end = len(data) if found is None else found.end() - carried
        self._head_end = b"" if found else (self._head_end + data)[-_CARRIED_BYTES:]
        return data[:end], data[end:]

    def _take_head(self, head: bytes) -> None:
        self._head_bytes += len(head)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"more than {MAX_HEAD_BYTES} bytes of headers"))
        else:
            super().data_received(head)

    def _take_body(self, data: bytes) -> None:
        """Hand over the last byte by itself: where the answer has ended before it, bytes are left over."""
        for part in (data[:-1], data[-1:]) if data else (data,):
            if part and not self._is_in_body():
                self._spoil()
                return
            super().data_received(part)
        self._body_bytes += len(data)
        if self._body_bytes > MAX_FRAMED_BODY_BYTES:
            self._spoil()  # what is read so far stands

    def _is_in_body(self) -> bool:
        return self._payload is not None and not self._payload.is_eof()

    def _refuse(self, error: Exception) -> None:
        self.set_exception(error)
        self._spoil()

    def _spoil(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether the socket holds bytes, or its end, that the event loop has not read yet."""
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or not hasattr(select, "poll"):  # no poll on Windows
        return peer is None
    poll = select.poll()
    poll.register(peer.fileno(), select.POLLIN)
    return bool(poll.poll(0))

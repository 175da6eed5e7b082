"""When a connection is fit for a callback, and when not; what goes over it is in tests/integration/test_hostile_*."""

import asyncio
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from callback_worker.conversation import Conversation


class Transport:
    """As much of a transport as a conversation asks for, around one end of a pair of sockets."""

    def __init__(self, near: socket.socket) -> None:
        self._extra = {"socket": near, "peername": ("192.0.2.1", 80)}
        self.aborted = False

    def get_extra_info(self, name: str) -> object:
        return self._extra.get(name)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def new_conversation(near: socket.socket) -> tuple[Conversation, Transport]:
    made, transport = Conversation(asyncio.get_running_loop()), Transport(near)
    made.connection_made(cast("asyncio.BaseTransport", transport))
    return made, transport


async def test_a_quiet_connection_is_fit(pair: tuple[socket.socket, socket.socket]) -> None:
    """New or used, plain or TLS."""
    conversation, _ = new_conversation(pair[0])
    assert str(conversation.address) == "192.0.2.1"
    assert not conversation.is_spoilt(is_tls=False)
    assert not conversation.is_spoilt(is_tls=True)
    conversation.ask()
    assert not conversation.is_spoilt(is_tls=True)


async def test_bytes_in_the_socket_spoil_a_connection_unless_they_may_be_session_tickets(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A new TLS connection has these to read before anything was asked; a used one is not worth the doubt."""
    conversation, _ = new_conversation(pair[0])
    pair[1].send(b"x")
    assert conversation.is_spoilt(is_tls=False)
    assert not conversation.is_spoilt(is_tls=True)
    conversation.ask()
    assert conversation.is_spoilt(is_tls=True)


async def test_the_servers_end_spoils_a_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    """Even where the event loop has not heard of it."""
    conversation, _ = new_conversation(pair[0])
    conversation.ask()
    pair[1].close()
    assert conversation.is_spoilt(is_tls=False)


@pytest.mark.parametrize("data", [b"\n", b"HTTP/1.1 41", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_bytes_that_nobody_asked_for_spoil_a_connection_and_end_it(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    """Those of a server that speaks first."""
    conversation, transport = new_conversation(pair[0])
    conversation.data_received(data)
    assert conversation.is_spoilt(is_tls=True)
    assert transport.aborted

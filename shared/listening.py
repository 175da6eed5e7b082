"""Listening sockets, opened before a process begins: where that fails, one line says which setting, and why."""

import errno
import os
import socket
import sys
from typing import NoReturn

BACKLOG = 2048
EXIT_CANNOT_LISTEN = 1

_NO_SUCH_ADDRESS_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int, *, host_variable: str, port_variable: str) -> list[socket.socket]:
    """Return a listening socket for every address of the host; exit with one line when there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        _exit(f"{host_variable}: {host} has no address: {error.strerror}")
    sockets = []
    # A host may have an address of a family that this machine lacks, as ::1 in a container.
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS_HERE:
                _exit(f"{port_variable}: cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}")
    if not sockets:
        _exit(f"{host_variable}: this machine has no address {host}")
    return sockets


def _exit(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)  # noqa: T201 - logs are not configured before the process runs
    raise SystemExit(EXIT_CANNOT_LISTEN)

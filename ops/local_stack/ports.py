"""Free TCP ports on loopback, away from well-known services."""

import os
import random
import socket
import tempfile
import time
from pathlib import Path

# Above the registered ports that developers meet (5432, 5672, 8080, 9092, 15672) and below the kernel's range for
# outgoing connections, from which a port that is free now may be taken a moment later.
LOWEST_PORT = 20_000
HIGHEST_PORT = 31_999
# RabbitMQ's own default for distribution lies inside that range.
STANDARD_PORTS = frozenset({25_672})
ATTEMPT_COUNT = 200
# From a port's choice until a server listens on it.
CLAIMED_FOR_S = 120.0


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listens on, and that no other run has been given in the last two minutes."""
    ports: set[int] = set()
    for _ in range(ATTEMPT_COUNT):
        port = random.randint(LOWEST_PORT, HIGHEST_PORT)
        if port not in STANDARD_PORTS and is_free(port) and _claim(port):
            ports.add(port)
        if len(ports) == count:
            return list(ports)
    raise OSError(f"no {count} free ports between {LOWEST_PORT} and {HIGHEST_PORT}")


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _claim(port: int) -> bool:
    """Take the port for a while, by a file that all runs of this user see; False where another run has it."""
    folder = Path(tempfile.gettempdir()) / f"voltline-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    claim = folder / str(port)
    try:
        if time.time() - claim.stat().st_mtime < CLAIMED_FOR_S:
            return False
        claim.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

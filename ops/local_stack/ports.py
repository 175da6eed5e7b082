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
# A port stays taken for so long even if who asked for it ends at once: it may have asked for a server that follows.
CLAIMED_FOR_S = 120.0


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listens on, given to nobody lately and to no living process."""
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
    """Take the port while this process lives, by a file that all runs of this user see; False where another has it.

    A server that is stopped for a while so finds its port free when it starts again.
    """
    folder = Path(tempfile.gettempdir()) / f"voltline-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    claim = folder / str(port)
    if _is_taken(claim):
        return False
    claim.unlink(missing_ok=True)
    try:
        with claim.open("x") as opened:
            opened.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def _is_taken(claim: Path) -> bool:
    try:
        return time.time() - claim.stat().st_mtime < CLAIMED_FOR_S or _lives(int(claim.read_text() or 0))
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0

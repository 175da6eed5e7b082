"""Which processes run below another, and whether they are gone, as /proc tells."""

import time
from pathlib import Path

GONE_TIMEOUT_S = 20


def children_of(pid: int) -> set[int]:
    """The processes that `pid` itself started and that still run."""
    return {child for child, parent in _parents().items() if parent == pid}


def descendants_of(pid: int) -> set[int]:
    """Every process below `pid`."""
    parents, found = _parents(), {pid}
    while below := {child for child, parent in parents.items() if parent in found} - found:
        found |= below
    return found - {pid}


def command_line_of(pid: int) -> list[str]:
    """The arguments that a process was started with; none when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until_gone(pids: set[int]) -> set[int]:
    """The processes that still run after a while; a zombie waits for nothing but its parent's notice."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while left := {pid for pid in pids if _state_and_parent(pid)[0] not in ("", "Z")}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


def _parents() -> dict[int, int]:
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return {pid: _state_and_parent(pid)[1] for pid in pids}


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        # The second field, the program's name, may hold spaces and brackets of its own.
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)

"""Named places at which the fault suite lets a process die by SIGKILL, as a power cut would. For tests alone.

`VOLTLINE_CRASH_POINT=name` dies when `name` is reached for the first time, `name:3` for the third, and `name@ID`
whenever it is reached for the message ID. Without the variable, which nothing but a test sets, nothing happens.
"""

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

# Long enough for what was written to leave the process, an acknowledgement for example.
LINGER_S = 0.25


@dataclass
class _Point:
    name: str
    wanted_id: str
    left: int


def _parse(text: str) -> _Point | None:
    if not text:
        return None
    name, _, wanted_id = text.partition("@")
    name, _, count = name.partition(":")
    return _Point(name, wanted_id, int(count or 1))


_point = _parse(os.environ.get("VOLTLINE_CRASH_POINT", ""))


def reach(name: str, ids: Iterable[object] = ()) -> None:
    """Die here if this is the place. `ids` are the messages in hand."""
    if _point is not None and _is_here(_point, name, ids):
        os.kill(os.getpid(), signal.SIGKILL)


async def linger(name: str) -> None:
    """As `reach`, a moment later: what was written before is on its way, and nothing that comes after is."""
    if _point is not None and _is_here(_point, name, ()):
        await asyncio.sleep(LINGER_S)
        os.kill(os.getpid(), signal.SIGKILL)


def _is_here(point: _Point, name: str, ids: Iterable[object]) -> bool:
    if point.name != name or (point.wanted_id and point.wanted_id not in map(str, ids)):
        return False
    point.left -= 1
    return point.left <= 0

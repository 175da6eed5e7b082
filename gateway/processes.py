"""A gateway of several processes: they share the listening sockets, each has its own publisher.

A process that dies is replaced; SIGTERM drains all. When this one is killed, they notice and drain as well.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir

from prometheus_client.multiprocess import mark_process_dead

from gateway.metrics import MULTIPROCESS_FOLDER
from shared.logs import get_logger

log = get_logger(__name__)

# A process that cannot start shall not keep a core busy with trying.
RESTART_DELAY_S = 1.0
FOLDER_PREFIX = "voltline-gateway-metrics-"
# A younger one may be about to be locked.
LEFT_AFTER_S = 60


async def run_processes(count: int, fds: Sequence[int], drain: asyncio.Event) -> None:
    """Keep `count` processes running on the sockets `fds`; return when all have drained."""
    _remove_left_folders()
    with TemporaryDirectory(prefix=FOLDER_PREFIX) as folder, _locked(folder) as lock:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(_keep_one_running(fds, folder, lock, drain))


def _remove_left_folders() -> None:
    """Remove the metrics of gateways that were killed, processes and all."""
    for left in Path(gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                with _locked(left):
                    rmtree(left)


@contextmanager
def _locked(folder: str | Path) -> Iterator[int]:
    """Hold the folder's lock for as long as any process has the descriptor; raises OSError where it is held already."""
    import fcntl  # noqa: PLC0415 - there is none on Windows, nor a gateway of several processes

    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)


async def _keep_one_running(fds: Sequence[int], folder: str, lock: int, drain: asyncio.Event) -> None:
    while not drain.is_set():
        child = await _start(fds, folder, lock)
        status = await _wait_or_drain(child, drain)
        mark_process_dead(child.pid, folder)  # type: ignore[no-untyped-call]
        if drain.is_set():
            return
        log.error("gateway_process_died", child=child.pid, status=status, replaced_in_s=RESTART_DELAY_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(drain.wait(), RESTART_DELAY_S)


async def _start(fds: Sequence[int], folder: str, lock: int) -> asyncio.subprocess.Process:
    """Start a process whose standard input is a pipe from this one: its end says that this one is gone."""
    variables = {"GATEWAY_LISTENING_FDS": ",".join(map(str, fds)), MULTIPROCESS_FOLDER: folder}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway",
        stdin=asyncio.subprocess.PIPE, pass_fds=(*fds, lock), env={**os.environ, **variables},
    )  # fmt: skip


async def _wait_or_drain(child: asyncio.subprocess.Process, drain: asyncio.Event) -> int:
    ended, draining = asyncio.ensure_future(child.wait()), asyncio.ensure_future(drain.wait())
    await asyncio.wait([ended, draining], return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    if not ended.done():
        child.terminate()
    return await ended


def drain_with_parent(drain: asyncio.Event) -> None:
    """In such a process: drain when the one that started it is gone."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            drain.set()

    loop.add_reader(stdin, on_readable)

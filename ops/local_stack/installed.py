"""The parent's side of the private servers: starts their supervisor and talks to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ops.local_stack.binaries import find_or_install
from ops.local_stack.engine import Kind
from ops.local_stack.folder import new_folder, sweep_dead_folders
from ops.local_stack.program import REPOSITORY
from ops.local_stack.servers import Control, Server, Servers, StackError

# The supervisor bounds its own waits; this is for one that hangs altogether.
SUPERVISOR_END_TIMEOUT_S = 60


def _silent(_: str) -> None:
    """For callers without a terminal."""


@contextmanager
def installed_servers(say: Callable[[str], None] = _silent) -> Iterator[Servers]:
    """Private servers from the installed binaries, for as long as the context lasts; `say` hears what takes long."""
    find_or_install(say)
    sweep_dead_folders()
    folder = new_folder()
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "ops.local_stack.supervisor", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is for the parent; the supervisor hears of it by the pipe
    )
    try:
        yield _servers(supervisor)
    finally:
        _end(supervisor)


def _servers(supervisor: subprocess.Popen[str]) -> Servers:
    def control(verb: Control, server: Server) -> None:
        _ask(supervisor, f"{verb} {server}")

    urls = _read_answer(supervisor)
    return Servers(
        database_url=urls["database_url"],
        amqp_url=urls["amqp_url"],
        management_url=urls["management_url"],
        kind=Kind.INSTALLED,
        control=control,
    )


def _ask(supervisor: subprocess.Popen[str], line: str) -> None:
    assert supervisor.stdin is not None
    supervisor.stdin.write(f"{line}\n")
    supervisor.stdin.flush()
    _read_answer(supervisor)


def _read_answer(supervisor: subprocess.Popen[str]) -> dict[str, str]:
    assert supervisor.stdout is not None
    line = supervisor.stdout.readline()
    if not line:
        raise StackError("the servers' supervisor ended before it answered")
    answer: dict[str, str] = json.loads(line)
    if "error" in answer:
        raise StackError(answer["error"])
    return answer


def _end(supervisor: subprocess.Popen[str]) -> None:
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    supervisor.stdin.close()
    try:
        supervisor.wait(SUPERVISOR_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Its children end with it.
        os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
    supervisor.stdout.close()

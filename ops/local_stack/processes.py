"""Starts Voltline's own processes beside the servers, waits for their readiness, and ends them in either way.

Each writes to a log file of its own. On Linux they end with whoever started them, however that one ends.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from ops.local_stack.ports import free_ports
from ops.local_stack.program import REPOSITORY, die_with_parent
from ops.local_stack.servers import StackError

# A cold start imports everything once; two cores may be busy with a broker that starts as well.
READY_TIMEOUT_S = 45
# The contract grants 25 s to drain; what takes longer is killed.
DRAIN_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.05
ANSWER_TIMEOUT_S = 2
LOG_TAIL_BYTES = 6_000


class Name(StrEnum):
    """The processes, by their module's name."""

    GATEWAY = "gateway"
    SESSION_WORKER = "session_worker"
    CALLBACK_WORKER = "callback_worker"


PORT_VARIABLES = {
    Name.GATEWAY: "GATEWAY_PORT",
    Name.SESSION_WORKER: "SESSION_WORKER_HTTP_PORT",
    Name.CALLBACK_WORKER: "CALLBACK_WORKER_HTTP_PORT",
}


@dataclass(frozen=True)
class Process:
    """One started process; `url` is where its HTTP answers."""

    name: Name
    url: str
    log: Path
    child: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """The process id, for signals."""
        return self.child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self.child.poll()

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits for `/readyz` to say 200; raises `StackError` with its last words when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while (answer := await asyncio.to_thread(readiness, self.url)) is None or not answer.is_ready:
            if self.exit_code is not None:
                raise StackError(f"{self.name} ended with code {self.exit_code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                said = "nothing" if answer is None else answer.words
                raise StackError(
                    f"{self.name} was not ready within {timeout_s} s; /readyz says {said}:\n{self.log_tail()}"
                )
            await asyncio.sleep(POLL_INTERVAL_S)

    async def stop(self, wanted: signal.Signals = signal.SIGTERM) -> int:
        """Sends SIGTERM (or `wanted`) and waits for the end; returns the exit code."""
        self.signal(wanted)
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self.exit_code is None:
            if time.monotonic() > deadline:
                self.child.kill()
            await asyncio.sleep(POLL_INTERVAL_S)
        return self.child.wait()

    async def kill(self) -> None:
        """Ends the process as a crash would (SIGKILL)."""
        await self.stop(signal.SIGKILL)

    def signal(self, wanted: signal.Signals) -> None:
        """Sends a signal if the process still runs."""
        if self.exit_code is None:
            self.child.send_signal(wanted)

    def log_tail(self) -> str:
        """The last lines that the process wrote."""
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


class Processes:
    """The processes of one run; `log_folder` must exist.

    `environment` is what all of them get, `own` what each gets besides: its login, for example.
    """

    def __init__(
        self, environment: Mapping[str, str], log_folder: Path, own: Mapping[Name, Mapping[str, str]] | None = None
    ) -> None:
        self.environment = dict(environment)
        self.own = own or {}
        self.log_folder = log_folder
        self.started: list[Process] = []

    def launch(self, name: Name | str, *, port: int | None = None, **environment: str) -> Process:
        """Starts a process without waiting; `environment` is added to, or replaces, the shared one."""
        name, port = Name(name), port or free_ports(1)[0]
        log = self.log_folder / f"{name}-{len(self.started) + 1}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", name],
                cwd=REPOSITORY,
                env={
                    **_inherited(),
                    **self.environment,
                    **self.own.get(name, {}),
                    **environment,
                    PORT_VARIABLES[name]: str(port),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the parent, which then drains its processes in order
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call, no locks
            )
        process = Process(name, f"http://127.0.0.1:{port}", log, child)
        self.started.append(process)
        return process

    async def start(self, name: Name | str, *, port: int | None = None, **environment: str) -> Process:
        """Starts a process and waits until it is ready."""
        process = self.launch(name, port=port, **environment)
        await process.ready()
        return process

    def close(self) -> None:
        """Drains what still runs, all at once, and kills what does not heed it."""
        for process in self.started:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        for process in self.started:
            try:
                process.child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()

    def log_tails(self) -> dict[str, str]:
        """The tail of every log, by file name."""
        return {process.log.name: process.log_tail() for process in self.started}


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a process says of itself."""

    is_ready: bool
    words: str


def says_ready(url: str) -> bool:
    """Whether the process at `url` answers that it is ready."""
    answer = readiness(url)
    return answer is not None and answer.is_ready


def readiness(url: str) -> Readiness | None:
    """What it answers, or None where it does not. It is asked often, so by the smallest client there is."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return Readiness(answer.status == HTTPStatus.OK, answer.read().decode())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _inherited() -> dict[str, str]:
    """What processes need of our own environment; settings that happen to be exported here must not reach them."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}

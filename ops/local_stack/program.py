"""One server program held by the supervisor: what to run, how to tell that it is ready, and how it ends.

The kernel ends a program whose supervisor dies without a word (Linux); elsewhere only an orderly end does.
"""

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.local_stack.account import Account

# Where our own programs are run from: the packages are not installed.
REPOSITORY = Path(__file__).resolve().parents[2]
# prctl(2): the signal that this process gets when its parent dies.
PR_SET_PDEATHSIG = 1
# RabbitMQ writes its queues down first; a server that takes longer than this is stuck.
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Plan:
    """How to run one program. `stop_signal` is the orderly end, `end_signal` the quick one that still tidies up."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    folder: Path
    port: int
    stop_signal: signal.Signals
    end_signal: signal.Signals
    is_ready: Callable[[], bool]

    @property
    def log(self) -> Path:
        """Where the program's output goes."""
        return self.folder / f"{self.name}.log"


@dataclass
class Program:
    """A program's lifetime; it may be started and stopped any number of times."""

    plan: Plan
    account: Account | None
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Starts the program; readiness is `plan.is_ready`."""
        with self.plan.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.plan.command,
                cwd=self.plan.folder,
                env=dict(self.plan.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
                preexec_fn=die_with_parent(self.plan.end_signal),  # noqa: PLW1509 - one system call, no locks
            )

    @property
    def has_ended(self) -> bool:
        """Whether the program is not running."""
        return self.process is None or self.process.poll() is not None

    def end(self, wanted: signal.Signals) -> None:
        """Sends `wanted` and waits for the end; a program that does not heed it is killed."""
        if self.process is None or self.has_ended:
            return
        self.process.send_signal(wanted)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def end_on_sigterm() -> None:
    """Make SIGTERM act as Ctrl-C does, even where a shell started us in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def die_with_parent(wanted: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn`: the process gets `wanted` when the thread that started it ends. None where unsupported."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(wanted))

    return ask_kernel


def listens(port: int) -> bool:
    """Whether something takes TCP connections on `port` of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False

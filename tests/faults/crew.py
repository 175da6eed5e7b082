"""The running processes, several of each, as an orchestrator would keep them: who is dead is replaced."""

import asyncio
import signal
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from ops.local_stack.processes import Name, Process, Processes, says_ready

COUNT_OF_EACH = 2
# For a crash point to be reached, on a busy machine.
EXIT_TIMEOUT_S = 60.0
POLL_S = 0.05
IDLE_POLL_S = 0.3
# In a storm other faults keep it unready as well: a half-open connection, events that a killed sweeper had claimed.
JOINS_WITHIN_S = 90.0
ANSWER_TIMEOUT_S = 5
# What counts a worker's work: batches of commands, attempts.
HANDLED = {
    Name.SESSION_WORKER: "voltline_batch_seconds_count",
    Name.CALLBACK_WORKER: "voltline_callback_attempts_total",
}
# And a gateway's: commands that it published.
DONE = HANDLED | {Name.GATEWAY: "voltline_gateway_publishes_total"}


class NeverFired(Exception):
    """The fault did not happen: the run proves nothing."""


class Crew:
    """Two of each kind. `rotation` holds the gateways that a load balancer would send calls to."""

    def __init__(self, environment: Mapping[str, str], folder: Path, own: Mapping[Name, Mapping[str, str]]) -> None:
        self._processes = Processes(environment, folder, own)
        self.members: dict[Name, list[Process]] = {name: [] for name in Name}
        self.rotation: list[Process] = []

    async def start(self) -> None:
        """Start all at once and wait until all are ready."""
        for name in Name:
            self.members[name] = [self._processes.launch(name) for _ in range(COUNT_OF_EACH)]
        for process in self.everybody():
            await process.ready()
        self.rotation = list(self.members[Name.GATEWAY])

    def everybody(self) -> list[Process]:
        return [process for members in self.members.values() for process in members]

    def gateways(self) -> list[str]:
        """The URLs of the gateways in rotation."""
        return [process.url for process in self.rotation]

    def launch(self, name: Name, **environment: str) -> Process:
        """Start one more, beside the others, and do not wait for it."""
        return self._processes.launch(name, port=None, **environment)

    async def join(self, process: Process) -> None:
        """Make it one of the crew once it is ready."""
        await process.ready(JOINS_WITHIN_S)
        self.members[process.name].append(process)
        if process.name is Name.GATEWAY:
            self.rotation.append(process)

    def leave(self, process: Process) -> None:
        """Take it out of the crew, and of rotation first of all."""
        if process in self.rotation:
            self.rotation.remove(process)
        self.members[process.name].remove(process)

    async def one(self, name: Name) -> Process:
        """Return one of them as soon as there is one: other faults may have ended all."""
        while not self.members[name]:
            await asyncio.sleep(POLL_S)
        return self.members[name][0]

    async def kill_one(self, name: Name) -> str:
        """kill -9 one of them, as soon as there is one, and put another in its place; return the proof."""
        victim = await self.one(name)
        self.members[name].remove(victim)
        await victim.kill()
        if victim in self.rotation:
            self.rotation.remove(victim)
        replacement = self.launch(name)
        if victim.exit_code != -signal.SIGKILL:
            raise NeverFired(f"{name} ended with {victim.exit_code}")
        await self.join(replacement)
        return f"exit {victim.exit_code}"

    async def ended(self, process: Process) -> int:
        """Wait for its end and return the exit code."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while process.exit_code is None:
            if time.monotonic() > deadline:
                await process.kill()
                raise NeverFired(f"{process.name} did not end within {EXIT_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)
        return process.exit_code

    async def heal(self) -> list[str]:
        """Replace whoever ended unasked, and wait until all are ready; return who it was."""
        dead = [process for process in self.everybody() if process.exit_code is not None]
        for process in dead:
            self.leave(process)
            await self.join(self.launch(process.name))
        for process in self.everybody():
            await process.ready(timeout_s=60)
        return [f"{process.name} ended with {process.exit_code}:\n{process.log_tail()}" for process in dead]

    async def idle_workers(self, *, timeout_s: float) -> list[str]:
        """Wait, under load, until every worker has handled something from now on; return who has not.

        A process that lives, says that it is ready, and consumes nothing is what nobody would notice.
        """
        idle = {process: await handled(process) for name in HANDLED for process in self.members[name]}
        deadline = time.monotonic() + timeout_s
        while idle and time.monotonic() < deadline:
            await asyncio.sleep(IDLE_POLL_S)
            idle = {process: before for process, before in idle.items() if await handled(process) <= before}
        return [process.log.name for process in idle]

    async def until_ready(self, process: Process, *, is_ready: bool, timeout_s: float) -> float | None:
        """Wait until `/readyz` says this; return after how many seconds, or None if it never did."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if await asyncio.to_thread(says_ready, process.url) is is_ready:
                return time.monotonic() - began
            await asyncio.sleep(0.2)
        return None

    async def close(self) -> None:
        """Wake whoever is stopped, and drain all, while the loop goes on to turn: their links run on it."""
        for process in self._processes.started:
            process.signal(signal.SIGCONT)
        await asyncio.to_thread(self._processes.close)

    def log_tails(self) -> dict[str, str]:
        return self._processes.log_tails()


async def handled(process: Process) -> float:
    """How much the process has done in its life, by its own metrics."""
    text = await asyncio.to_thread(metrics_of, process)
    lines = (line for line in text.splitlines() if line.startswith(DONE[process.name]))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def metrics_of(process: Process) -> str:
    """What it tells Prometheus; nothing where it does not answer."""
    connection = HTTPConnection(urlsplit(process.url).netloc, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()


def cpu_s(process: Process) -> float:
    """How much CPU a process has used, in seconds (Linux)."""
    # The second field may hold spaces; utime and stime are the 14th and 15th of all, in ticks of 10 ms.
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100

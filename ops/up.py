"""`python -m ops up` and `down`: the whole product in the foreground until Ctrl-C, and the end of one left behind."""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from ops.local_stack import Kind, StackError, compose, kind
from ops.local_stack.folder import RUNS
from ops.local_stack.processes import PORT_VARIABLES, Name, Process
from ops.local_stack.stack import Stack, on_installed_stack
from ops.receiver import Answer, Callback, Receiver

POLL_INTERVAL_S = 0.3
# Draining takes up to 25 s, the servers a few more.
DOWN_TIMEOUT_S = 60
CURL = """\
curl -i -X POST {gateway}/api/charging-session-requests -H 'Content-Type: application/json' \\
  -d '{{"stationId": "9673200c-05a1-4b2d-aa4c-9deb130981a2", "driverId": "driver-1", "callbackUrl": "{callback}"}}'"""
LIST_CALLBACKS = "-m ops callbacks list"
# A container cannot reach a receiver on this machine's loopback: people put their own here (.example never resolves).
CALLBACK_PLACEHOLDER = "https://your-receiver.example/callback"


def up() -> int:
    """Runs the stack until Ctrl-C; 0 when it was stopped in order."""
    console = Console(highlight=False)
    try:
        if kind() is Kind.DOCKER:
            return _up_in_docker(console)
        with _recorded():
            return on_installed_stack(console, lambda stack: _stay(console, stack), LOG_FORMAT="console")
    except KeyboardInterrupt:
        return 0


def down() -> int:
    """Stops every `up` of this checkout, in either mode; 0 as well when there is none."""
    console = Console(highlight=False)
    # All are told before any is waited for: one that is stuck shall not keep the others running.
    told = [record for record in sorted(RUNS.glob("up-*.lock")) if _tell_to_end(record)]
    stuck = [record for record in told if not _ends(record)]
    if stuck:
        pids = ", ".join(record.read_text() for record in stuck)
        raise StackError(
            f"did not end within {DOWN_TIMEOUT_S} s: process {pids}; look at what it waits for, or kill it"
        )
    removed = compose.down(console) if kind() is Kind.DOCKER else False
    if not told and not removed:
        console.print("Nothing of `up` runs here.")
    return 0


def _up_in_docker(console: Console) -> int:
    with _recorded(), compose.running(console, compose.UP_PROJECT, usual_ports=True, LOG_FORMAT="console") as project:
        urls = {name: project.url(variable) for name, variable in PORT_VARIABLES.items()}
        shown = Shown(
            urls=urls,
            management_url=compose.management_url(project),
            callback_url=CALLBACK_PLACEHOLDER,
            signing_key=project.environment["CALLBACK_SIGNING_KEYS"],
            operate=[f"{project.typed} exec {Name.GATEWAY} python {LIST_CALLBACKS}"],
        )
        show_addresses(console, shown)
        return project.run("logs", "--follow", "--tail", "0", *Name)


async def _stay(console: Console, stack: Stack) -> int:
    """Shows where everything is, then logs and callbacks; ends with Ctrl-C, or with an error when a process ends."""
    urls = {name: process.url for name, process in stack.by_name.items()}
    read_to = dict.fromkeys(stack.by_name, 0)
    async with Receiver(stack.signing_key) as receiver:
        receiver.answer = lambda callback: _show_callback(console, callback)
        shown = Shown(
            urls=urls,
            management_url=stack.management_url,
            callback_url=receiver.url("callback"),
            signing_key=stack.signing_key,
            operate=[
                *(f"export {name}={quote(value)}" for name, value in stack.operator.items()),
                f"{quote(_python())} {LIST_CALLBACKS}",
            ],
        )
        show_addresses(console, shown)
        while True:
            for name, process in stack.by_name.items():
                read_to[name] = _show_new_lines(console, process, read_to[name])
                if process.exit_code is not None:
                    raise StackError(f"{name} ended with code {process.exit_code}")
            await asyncio.sleep(POLL_INTERVAL_S)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a person needs who tries it; `operate` are the lines that bring an operator to `python -m ops`."""

    urls: Mapping[Name, str]
    management_url: str = field(repr=False)
    callback_url: str
    signing_key: str = field(repr=False)
    operate: Sequence[str] = field(repr=False)


def show_addresses(console: Console, shown: Shown) -> None:
    """Prints the addresses, the key that verifies callbacks, what an operator types, and a call to try."""
    broker, gateway = urlsplit(shown.management_url), shown.urls[Name.GATEWAY]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]Swagger UI[/]", f"{gateway}/api")
    table.add_row("[bold]RabbitMQ UI[/]", f"http://{broker.hostname}:{broker.port}")
    table.add_row("", f"[dim]user[/] {broker.username}  [dim]password[/] {broker.password}")
    for name, url in shown.urls.items():
        table.add_row(f"[bold]{name}[/]", f"{url}/metrics  [dim]and /readyz[/]")
    table.add_row("[bold]Signing key[/]", shown.signing_key)
    console.print("\n[bold]Voltline is up.[/] Ctrl-C stops it and forgets its data.\n")
    console.print(table)
    console.print("\n[bold]Operate[/] [dim](in another terminal, in this folder)[/]")
    for line in shown.operate:
        console.print(line, markup=False, soft_wrap=True)
    console.print("\n[bold]Try[/]")
    console.print(CURL.format(gateway=gateway, callback=shown.callback_url), markup=False, soft_wrap=True)
    console.print()


def _python() -> str:
    """The interpreter that has our packages, as short as it can be typed here."""
    executable, here = Path(sys.executable), Path.cwd()
    return str(executable.relative_to(here) if executable.is_relative_to(here) else executable)


def _show_callback(console: Console, callback: Callback) -> Answer:
    verdict = "signature verified" if callback.verified else "SIGNATURE WRONG"
    console.out(f"{'callback':<15} │ {verdict}: {callback.body.decode(errors='replace')}", highlight=False)
    return Answer()


def _show_new_lines(console: Console, process: Process, offset: int) -> int:
    with process.log.open("rb") as log:
        log.seek(offset)
        lines = log.read()
    complete = lines[: lines.rfind(b"\n") + 1]
    for line in complete.decode(errors="replace").splitlines():
        console.out(f"{process.name:<15} │ {line}", highlight=False)
    return offset + len(complete)


@contextmanager
def _recorded() -> Iterator[None]:
    """Leaves a file with our process id, locked while we live, for `down` to find."""
    RUNS.mkdir(exist_ok=True)
    record = RUNS / f"up-{os.getpid()}.lock"
    handle = os.open(record, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.write(handle, str(os.getpid()).encode())
    try:
        yield
    finally:
        record.unlink(missing_ok=True)
        os.close(handle)


def _tell_to_end(record: Path) -> bool:
    """Signals the run that holds the lock. A free lock means a dead run, whose process id may be anybody's by now."""
    with record.open("r+") as handle:
        if _is_free(handle.fileno()):
            record.unlink(missing_ok=True)
            return False
        os.kill(int(handle.read()), signal.SIGTERM)
    return True


def _ends(record: Path) -> bool:
    """Waits until the run has let go of its lock."""
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with record.open("r+") as handle:
                if _is_free(handle.fileno()):
                    return True
        except FileNotFoundError:  # the run took its record away with it
            return True
        time.sleep(POLL_INTERVAL_S)
    return False


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""`python -m ops.local_stack.supervisor FOLDER`: holds the private servers for as long as its standard input is open.

Its parent's end, however sudden, closes that pipe; the servers then end and FOLDER goes. Lines on standard input
are commands (`stop rabbitmq`); each line on standard output is one JSON answer, the first of them the servers' URLs.
"""

import json
import os
import secrets
import select
import signal
import sys
import time
from pathlib import Path

from ops.local_stack import postgres, rabbitmq
from ops.local_stack.account import server_account
from ops.local_stack.binaries import find_binaries
from ops.local_stack.folder import locked
from ops.local_stack.ports import free_ports
from ops.local_stack.program import Program
from ops.local_stack.servers import Control, Server, StackError

# RabbitMQ takes 5 to 10 s on an idle machine with two cores.
READY_TIMEOUT_S = 90
POLL_INTERVAL_S = 0.1
LOG_TAIL_BYTES = 4_000


class ParentLeft(Exception):
    """Standard input is closed: there is nobody left to hold servers for."""


class Commands:
    """Lines from the parent, read without blocking for longer than asked."""

    def __init__(self) -> None:
        self._pending = b""

    def next(self, timeout_s: float) -> str | None:
        """The next line, or None when none comes in time; raises `ParentLeft` at the end of the stream."""
        if b"\n" not in self._pending and select.select([0], [], [], timeout_s)[0]:
            received = os.read(0, 4096)
            if not received:
                raise ParentLeft
            self._pending += received
        if b"\n" not in self._pending:
            return None
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode()


def main(folder: Path) -> int:
    """Runs the servers until the parent leaves; 0 unless they could not be started."""
    for wanted in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(wanted, _leave)
    with locked(folder):
        try:
            return _hold(folder, Commands())
        except ParentLeft:
            return 0
        except (StackError, OSError) as error:
            _answer({"error": str(error)})
            return 1


def _leave(*_: object) -> None:
    raise ParentLeft


def _hold(folder: Path, commands: Commands) -> int:
    held: dict[str, Program] = {}
    try:
        urls = _start_all(folder, held, commands)
        _answer(urls)
        while True:
            line = commands.next(timeout_s=60)
            if line is not None:
                _answer(_obey(line, held, commands))
    finally:
        # The data goes with the servers, so the quick end is enough.
        for program in reversed(held.values()):
            program.end(program.plan.end_signal)


def _start_all(folder: Path, held: dict[str, Program], commands: Commands) -> dict[str, str]:
    account, binaries, password = server_account(), find_binaries(), secrets.token_urlsafe(18)
    database_port, *broker_ports = free_ports(6)
    ports = rabbitmq.BrokerPorts(*broker_ports)
    for name in ("epmd", "postgres", "rabbitmq"):
        (folder / name).mkdir()
    if account is not None:
        account.take_over(folder)
    plans = [
        rabbitmq.epmd_plan(binaries, folder / "epmd", ports),
        rabbitmq.rabbitmq_plan(binaries, folder / "rabbitmq", ports, password=password, account=account),
    ]
    for plan in plans:
        held[plan.name] = Program(plan, account)
        held[plan.name].start()
    # initdb runs while the broker, the slower of the two, is already on its way.
    plan = postgres.postgres_plan(binaries, folder / "postgres", port=database_port, password=password, account=account)
    held[plan.name] = Program(plan, account)
    held[plan.name].start()
    for program in held.values():
        _wait_until_ready(program, commands)
    return {
        "database_url": postgres.database_url(database_port, password),
        "amqp_url": rabbitmq.amqp_url(ports.amqp, password),
        "management_url": rabbitmq.management_url(ports.management, password),
    }


def _wait_until_ready(program: Program, commands: Commands) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not program.plan.is_ready():
        if program.has_ended:
            raise StackError(f"{program.plan.name} ended while starting:\n{_log_tail(program)}")
        if time.monotonic() > deadline:
            raise StackError(f"{program.plan.name} was not ready within {READY_TIMEOUT_S} s:\n{_log_tail(program)}")
        commands.next(POLL_INTERVAL_S)


def _log_tail(program: Program) -> str:
    return program.plan.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def _obey(line: str, held: dict[str, Program], commands: Commands) -> dict[str, str]:
    verb, server = line.split()
    program = held[Server(server)]
    try:
        match Control(verb):
            case Control.STOP:
                program.end(program.plan.stop_signal)
            case Control.KILL:
                program.end(program.plan.end_signal)
            case Control.START:
                if program.has_ended:
                    program.start()
                _wait_until_ready(program, commands)
    except StackError as error:
        return {"error": str(error)}
    return {"done": line}


def _answer(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

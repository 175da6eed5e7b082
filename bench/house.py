"""A house for a measurement: an empty, provisioned database and vhost, and Voltline's own processes in it."""

import asyncio
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import asyncpg
from rich.console import Console

from ops.local_stack import Servers, installed_servers
from ops.local_stack.folder import locked, new_folder
from ops.local_stack.processes import Processes
from ops.local_stack.program import REPOSITORY
from ops.local_stack.servers import StackError

PROVISION_TIMEOUT_S = 90


@dataclass(frozen=True)
class House:
    """All URLs are the administrator's: a measurement fills tables and looks behind the processes."""

    name: str
    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    processes: Processes = field(repr=False)


@contextmanager
def private_servers(console: Console) -> Iterator[Servers]:
    """PostgreSQL and RabbitMQ of this run's own. SIGTERM ends them as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with console.status("Starting PostgreSQL and RabbitMQ ..."):
        opened = installed_servers(say=lambda text: console.print(text, markup=False))
        servers = opened.__enter__()
    try:
        yield servers
    finally:
        opened.__exit__(None, None, None)


@contextmanager
def new_house(servers: Servers, name: str) -> Iterator[House]:
    """A provisioned house; its processes are drained at the end."""
    database_url, amqp_url = asyncio.run(servers.fresh(name))
    urls = {"DATABASE_URL": database_url, "AMQP_URL": amqp_url}
    _provision(urls)
    with locked(new_folder()) as logs:
        processes = Processes({**urls, "LOG_LEVEL": "warning"}, logs)
        try:
            yield House(name, database_url, amqp_url, processes)
        finally:
            processes.close()


async def show_machine(console: Console, database: asyncpg.Connection) -> None:
    """Print what the figures were measured on."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = await database.fetchval("SHOW server_version")
    buffers = await database.fetchval("SHOW shared_buffers")
    console.print(
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB; Python {platform.python_version()}, PostgreSQL {version} "
        f"(shared_buffers {buffers}). The client and the servers share the machine.",
        style="dim",
    )


def _provision(urls: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ops", "provision"],
        cwd=REPOSITORY, env={**os.environ, **urls}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=PROVISION_TIMEOUT_S, check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        raise StackError(f"provisioning failed:\n{ran.stdout}")

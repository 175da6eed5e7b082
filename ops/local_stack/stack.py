"""The whole product on private servers: provisioned with least-privilege logins, all three processes ready."""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console

from ops.local_stack.folder import locked, new_folder
from ops.local_stack.installed import installed_servers
from ops.local_stack.ports import free_ports, is_free
from ops.local_stack.processes import Name, Process, Processes
from ops.local_stack.program import REPOSITORY, end_on_sigterm
from ops.local_stack.servers import Servers, StackError

# The contract's own ports, where nobody has them.
USUAL_PORTS = {Name.GATEWAY: 3000, Name.SESSION_WORKER: 3001, Name.CALLBACK_WORKER: 3002}
STACK_NAME = "voltline"
PROVISION_TIMEOUT_S = 90
SIGNING_KEY_BYTES = 32
# Callbacks to this machine are what a local stack is for; everywhere else the address policy forbids them.
LOOPBACK_NETWORKS = "127.0.0.0/8,::1/128"


@dataclass(frozen=True)
class Stack:
    """A running product. `database_url` is the gateway's login, which may only read.

    `operator` is what `python -m ops` needs for all its commands: the administrator's logins.
    """

    database_url: str = field(repr=False)
    operator: Mapping[str, str] = field(repr=False)
    management_url: str = field(repr=False)
    signing_key: str = field(repr=False)
    processes: Processes = field(repr=False)
    by_name: Mapping[Name, Process] = field(repr=False)

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers."""
        return self.by_name[Name.GATEWAY].url


Work = Callable[[Stack], Awaitable[int]]


@dataclass(frozen=True)
class Place:
    """A fresh database and vhost with the administrator's URLs, and `name:password` for each process."""

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    management_url: str = field(repr=False)
    logins: Mapping[Name, str] = field(repr=False)


def on_installed_stack(console: Console, work: Work, **environment: str) -> int:
    """Runs `work` on a new stack and stops everything after it; returns what `work` returned.

    `environment` goes to every process. Raises `StackError`; SIGTERM acts as Ctrl-C does.
    """
    end_on_sigterm()
    shared_environment = {
        "CALLBACK_SIGNING_KEYS": new_signing_key(),
        "CALLBACK_ALLOWED_NETWORKS": LOOPBACK_NETWORKS,
        **environment,
    }
    with locked(new_folder()) as logs, _started(console) as servers:
        place = _provisioned(console, servers)
        processes = Processes(shared_environment, logs)
        try:
            return asyncio.run(_with_processes(console, processes, place, work))
        finally:
            with step(console, "Drained and stopped"):
                processes.close()


def new_signing_key() -> str:
    """A random Standard Webhooks key."""
    return f"whsec_{b64encode(secrets.token_bytes(SIGNING_KEY_BYTES)).decode()}"


@contextmanager
def step(console: Console, done: str) -> Iterator[None]:
    """Shows that something is under way, and `done` with its seconds once it is."""
    began = time.monotonic()
    with console.status(f"{done} ..."):
        yield
    console.print(f"[green]✓[/] {done} [dim]({time.monotonic() - began:.1f} s)[/]", highlight=False)


@contextmanager
def _started(console: Console) -> Iterator[Servers]:
    servers = installed_servers(say=lambda text: console.print(text, markup=False))
    with step(console, "PostgreSQL and RabbitMQ started on ports of their own"):
        running = servers.__enter__()
    try:
        yield running
    finally:
        servers.__exit__(None, None, None)


def _provisioned(console: Console, servers: Servers) -> Place:
    database_url, amqp_url = asyncio.run(servers.fresh(STACK_NAME))
    logins = {name: f"{name}:{secrets.token_hex(16)}" for name in Name}
    place = Place(database_url, amqp_url, servers.management_url, logins)
    with step(console, "Schema, exchanges, queues and one login per process provisioned"):
        _provision(place)
    return place


def _provision(place: Place) -> None:
    environment = {
        **os.environ,
        "ADMIN_DATABASE_URL": place.database_url,
        "ADMIN_AMQP_URL": place.amqp_url,
        "ADMIN_MANAGEMENT_URL": place.management_url,
        **{f"{name.upper()}_LOGIN": login for name, login in place.logins.items()},
    }
    ran = subprocess.run(
        [sys.executable, "-m", "ops", "provision"],
        cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=PROVISION_TIMEOUT_S, check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        raise StackError(f"provisioning failed:\n{ran.stdout}")


async def _with_processes(console: Console, processes: Processes, place: Place, work: Work) -> int:
    with step(console, "gateway, session_worker and callback_worker ready"):
        ports = {name: _port(console, name) for name in Name}
        # Where people open the pages that the session worker gives links to.
        processes.environment["GATEWAY_PUBLIC_URL"] = f"http://127.0.0.1:{ports[Name.GATEWAY]}"
        by_name = {name: _launch(processes, place, name, ports[name]) for name in Name}
        for process in by_name.values():
            await process.ready()
    return await work(
        Stack(
            database_url=with_login(place.database_url, place.logins[Name.GATEWAY]),
            operator={"DATABASE_URL": place.database_url, "AMQP_URL": place.amqp_url},
            management_url=place.management_url,
            signing_key=processes.environment["CALLBACK_SIGNING_KEYS"],
            processes=processes,
            by_name=by_name,
        )
    )


def _launch(processes: Processes, place: Place, name: Name, port: int) -> Process:
    login = place.logins[name]
    return processes.launch(
        name,
        port=port,
        DATABASE_URL=with_login(place.database_url, login),
        AMQP_URL=with_login(place.amqp_url, login),
    )


def with_login(url: str, login: str) -> str:
    """The same URL for another `name:password`."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))


def _port(console: Console, name: Name) -> int:
    usual = USUAL_PORTS[name]
    if is_free(usual):
        return usual
    other = free_ports(1)[0]
    console.print(f"[yellow]Port {usual} is taken; {name} uses {other}.[/]", highlight=False)
    return other

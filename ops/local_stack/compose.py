"""The stack in Docker, through `docker compose` (version 2) or `docker-compose` (1.29), whichever is there."""

import fcntl
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from rich.console import Console

from ops.local_stack.folder import RUNS
from ops.local_stack.ports import free_ports, is_free
from ops.local_stack.processes import PORT_VARIABLES, Name, says_ready
from ops.local_stack.program import REPOSITORY, end_on_sigterm
from ops.local_stack.servers import StackError
from ops.local_stack.stack import USUAL_PORTS, new_signing_key, step

# What the compose file publishes, with the ports it uses where nothing else is said.
PUBLISHED_PORTS = {
    **{PORT_VARIABLES[name]: port for name, port in USUAL_PORTS.items()},
    "RABBITMQ_MANAGEMENT_PORT": 15672,
}
# The demo's receiver is a container of the same network, whose addresses Docker takes from these ranges.
CONTAINER_NETWORKS = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
UP_PROJECT, DEMO_PROJECT = "voltline-up", "voltline-demo"
READY_TIMEOUT_S = 120
POLL_INTERVAL_S = 0.5
ADMINISTRATOR = "voltline"


class RunsAlready(StackError):
    """Another run has the project's name."""


@dataclass(frozen=True)
class Project:
    """One compose project. Its name is ours, so that what people run by hand from the same file is left alone."""

    name: str
    environment: Mapping[str, str]

    def run(self, *arguments: str, quietly: bool = False) -> int:
        """Runs a compose command to its end; `quietly` keeps its output for the error message."""
        command = [*compose_command(), "-p", self.name, *arguments]
        ran = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, **self.environment}, check=False,
            stdin=subprocess.DEVNULL if quietly else None, stdout=subprocess.PIPE if quietly else None,
            stderr=subprocess.STDOUT if quietly else None, text=True, start_new_session=quietly,
        )  # fmt: skip
        if quietly and ran.returncode != 0:
            raise StackError(f"`{' '.join(command)}` failed:\n{ran.stdout[-4000:]}")
        return ran.returncode

    @property
    def typed(self) -> str:
        """How a person begins a compose command about it, in this folder."""
        return " ".join([*compose_command(), "-p", self.name])

    def has_containers(self) -> bool:
        """Whether anything of the project is there, running or not."""
        of_project = f"label=com.docker.compose.project={self.name}"
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", of_project], capture_output=True, check=False
        )
        return bool(listed.stdout.strip())

    def remove(self) -> None:
        """Stops and removes the project's containers and their data, if there are any."""
        self.run("--profile", "demo", "down", "--volumes", "--remove-orphans", quietly=True)

    def url(self, variable: str) -> str:
        """Where a published port answers."""
        return f"http://127.0.0.1:{self.environment[variable]}"


def compose_command() -> list[str]:
    """`docker compose` where the plugin is there, else `docker-compose`."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise StackError(
        "Docker is here, but neither `docker compose` nor `docker-compose`; LOCAL_STACK=installed avoids it"
    )


@contextmanager
def running(console: Console, name: str, *, usual_ports: bool = False, **environment: str) -> Iterator[Project]:
    """The stack, built and ready, for as long as the context lasts; then it is removed with its data."""
    with alone(name):
        yield from _running(console, name, usual_ports=usual_ports, environment=environment)


def _running(console: Console, name: str, *, usual_ports: bool, environment: Mapping[str, str]) -> Iterator[Project]:
    end_on_sigterm()
    project = Project(name, {**_secrets(), **_ports(console, usual=usual_ports), **environment})
    try:
        with step(console, "Image built"):
            project.run("build", quietly=True)
        # A killed run's containers would be kept, and with them a database that knows other passwords.
        project.remove()
        with step(console, "PostgreSQL, RabbitMQ, provisioning and the three processes started in Docker"):
            project.run("up", "-d", quietly=True)
            _wait_until_ready(project)
        yield project
    finally:
        with step(console, "Stopped and removed"):
            project.remove()


def down(console: Console) -> bool:
    """Removes what a killed `up` or demo left, and says whether that was something; a demo that runs is left alone."""
    removed = False
    for name in (UP_PROJECT, DEMO_PROJECT):
        project = Project(name, {})
        try:
            with alone(name):
                is_there = project.has_containers()
                # Without containers there may be a network or a volume yet, which nobody needs to hear of.
                with step(console, f"Containers of {name} removed") if is_there else nullcontext():
                    project.remove()
                removed = removed or is_there
        except RunsAlready as error:
            console.print(str(error), markup=False)
    return removed


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One run of a project at a time in this checkout; raises `RunsAlready`, as a second would remove the first's."""
    RUNS.mkdir(exist_ok=True)
    lock = os.open(RUNS / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunsAlready(f"{name} runs already in Docker: wait for its end, or stop it") from None
        yield
    finally:
        os.close(lock)


def management_url(project: Project) -> str:
    """The administrator's URL of RabbitMQ's UI."""
    port = project.environment["RABBITMQ_MANAGEMENT_PORT"]
    return f"http://{ADMINISTRATOR}:{project.environment['RABBITMQ_PASSWORD']}@127.0.0.1:{port}"


def _secrets() -> dict[str, str]:
    """New passwords for each run; the compose file's own are for people who run it by hand."""
    passwords = ("POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", *(f"{name.upper()}_PASSWORD" for name in Name))
    return {**{name: secrets.token_hex(16) for name in passwords}, "CALLBACK_SIGNING_KEYS": new_signing_key()}


def _ports(console: Console, *, usual: bool) -> dict[str, str]:
    """A host port for each published one: the usual where that is wanted and free, else another, which is said."""
    chosen = dict(zip(PUBLISHED_PORTS, free_ports(len(PUBLISHED_PORTS)), strict=True))
    for variable, default in PUBLISHED_PORTS.items() if usual else ():
        wanted = int(os.environ.get(variable) or default)
        if is_free(wanted):
            chosen[variable] = wanted
        else:
            console.print(f"[yellow]Port {wanted} is taken; {variable} is {chosen[variable]}.[/]", highlight=False)
    return {variable: str(port) for variable, port in chosen.items()}


def _wait_until_ready(project: Project) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    for variable in PORT_VARIABLES.values():
        while not says_ready(project.url(variable)):
            if time.monotonic() > deadline:
                project.run("logs", "--tail", "40")
                raise StackError(f"no answer from {project.url(variable)}/readyz within {READY_TIMEOUT_S} s")
            time.sleep(POLL_INTERVAL_S)

"""PostgreSQL and RabbitMQ in containers, where a Docker engine answers."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docker.errors import APIError  # type: ignore[import-untyped]
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from ops.local_stack import Kind, Server, Servers, StackError
from ops.local_stack.ports import free_ports
from ops.local_stack.postgres import database_answers
from ops.local_stack.rabbitmq import amqp_answers, management_answers
from ops.local_stack.servers import Control

POSTGRES_IMAGE = "postgres:17-alpine"
RABBITMQ_IMAGE = "rabbitmq:4-management-alpine"
READY_TIMEOUT_S = 120
POLL_INTERVAL_S = 0.2


@contextmanager
def container_servers(*, say: Callable[[str], None]) -> Iterator[Servers]:
    """Both servers with ports of their own on loopback; the containers and their data go at the end."""
    password = secrets.token_hex(12)
    database_port, amqp_port, management_port = free_ports(3)
    database_url = f"postgresql://postgres:{password}@127.0.0.1:{database_port}/postgres"
    management_url = f"http://voltline:{password}@127.0.0.1:{management_port}"
    containers = {
        Server.POSTGRES: _postgres(password, database_port),
        Server.RABBITMQ: _rabbitmq(password, amqp_port, management_port),
    }
    is_ready: dict[Server, Callable[[], bool]] = {
        Server.POSTGRES: lambda: asyncio.run(database_answers(database_url)),
        Server.RABBITMQ: lambda: amqp_answers(amqp_port) and management_answers(management_url),
    }

    def control(verb: Control, server: Server) -> None:
        container = containers[server].get_wrapped_container()
        match verb:
            case Control.STOP:
                container.stop(timeout=30)
            case Control.KILL:
                container.kill()
                container.wait()
            case Control.START:
                container.start()
                _wait(server, is_ready[server])

    _do_without_the_reaper_where_it_cannot_be_had(say)
    with containers[Server.POSTGRES], containers[Server.RABBITMQ]:
        for server in Server:
            _wait(server, is_ready[server])
        yield Servers(
            database_url=database_url,
            amqp_url=f"amqp://voltline:{password}@127.0.0.1:{amqp_port}/",
            management_url=management_url,
            kind=Kind.DOCKER,
            control=control,
        )


def _do_without_the_reaper_where_it_cannot_be_had(say: Callable[[str], None]) -> None:
    """It ends what a killed run leaves; without it, on a machine that reaches no registry, `docker rm` must."""
    if testcontainers_config.ryuk_disabled:
        return
    images, reaper = DockerClient().client.images, testcontainers_config.ryuk_image
    try:
        if not images.list(reaper):
            images.pull(reaper)
    except APIError:
        testcontainers_config.ryuk_disabled = True
        say(f"no image {reaper}: the containers of a run that is killed stay")


def _postgres(password: str, port: int) -> DockerContainer:
    container = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_PASSWORD", password)
    return _published(container, {5432: port})


def _rabbitmq(password: str, amqp_port: int, management_port: int) -> DockerContainer:
    container = DockerContainer(RABBITMQ_IMAGE).with_env("RABBITMQ_DEFAULT_USER", "voltline")
    return _published(container.with_env("RABBITMQ_DEFAULT_PASS", password), {5672: amqp_port, 15672: management_port})


def _published(container: DockerContainer, ports: dict[int, int]) -> DockerContainer:
    """Fixed ports, as a container that is started again would get others, on loopback alone."""
    for inner, outer in ports.items():
        # The Docker SDK takes an address with the port; testcontainers' annotation knows the port alone.
        container.ports[f"{inner}/tcp"] = ("127.0.0.1", outer)  # type: ignore[assignment]
    return container


def _wait(server: Server, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not is_ready():
        if time.monotonic() > deadline:
            raise StackError(f"the {server} container was not ready within {READY_TIMEOUT_S} s")
        time.sleep(POLL_INTERVAL_S)

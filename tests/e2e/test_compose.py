"""The compose file as people use it: the image builds, the stack comes up, the documents' calls get their answers."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from rich.console import Console

from ops.demo_story import EXAMPLE_REQUEST, EXAMPLE_START
from ops.local_stack import StackError, compose
from ops.local_stack.compose import Project
from ops.local_stack.engine import engine_answers
from ops.local_stack.rabbitmq import MAX_MESSAGE_BYTES
from tests.e2e.test_main_job import SEED_ACKNOWLEDGEMENT, SEED_STARTED
from tests.servers import REPOSITORY, refuse

pytestmark = pytest.mark.compose

PROCESSES = ("gateway", "session_worker", "callback_worker")


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The whole stack under a name and on ports of its own."""
    if not engine_answers():
        refuse(StackError("no Docker engine answers"))
    name = f"voltline-test-{secrets.token_hex(4)}"
    with compose.running(Console(), name, CALLBACK_ALLOWED_NETWORKS=compose.CONTAINER_NETWORKS) as running:
        yield running


@pytest.fixture
def gateway(project: Project) -> Iterator[httpx.Client]:
    """The gateway as published on loopback."""
    with httpx.Client(base_url=project.url("GATEWAY_PORT"), timeout=10, trust_env=False) as client:
        yield client


def test_the_documents_calls_get_the_documents_answers(gateway: httpx.Client) -> None:
    """Byte for byte, apart from the id; driver and charger are not the demo's, which must find its own free."""
    body = {**EXAMPLE_REQUEST, "driverId": "driver-2", "callbackUrl": "https://receiver.example/callback"}
    requested = gateway.post("/api/charging-session-requests", json=body)
    assert requested.status_code == httpx.codes.OK
    assert requested.content == SEED_ACKNOWLEDGEMENT
    started = gateway.post("/api/v1/session/start", json={**EXAMPLE_START, "chargerId": "CHARGER-002"})
    assert started.status_code == httpx.codes.ACCEPTED
    expected = (SEED_STARTED % started.json()["sessionId"]).replace("CHARGER-001", "CHARGER-002")
    assert started.content == expected.encode()


def test_the_interactive_documentation_is_served(gateway: httpx.Client) -> None:
    """Swagger UI and all that it loads come from the image."""
    assert gateway.get("/api").status_code == httpx.codes.OK
    assert "/api/charging-session-requests" in gateway.get("/api/openapi.json").json()["paths"]


def test_the_demo_adds_up(project: Project) -> None:
    """1,000 requests from a container of the same network, each with its row and its verified callback."""
    assert project.run("run", "--rm", "--no-deps", "--use-aliases", "-T", "demo") == 0


@pytest.mark.parametrize("process", PROCESSES)
def test_processes_run_without_root(project: Project, process: str) -> None:
    """The image's user has no rights on the machine."""
    assert output_of(project, "exec", "-T", process, "id", "-u").strip() == "10001"


def test_everything_is_published_on_loopback_alone(project: Project) -> None:
    """Anonymous calls are allowed in this stack: nobody else's machine may make them."""
    containers = output_of(project, "ps", "-q").split()
    inspected = subprocess.run(["docker", "inspect", *containers], capture_output=True, text=True, check=True).stdout
    ports = [ports for container in json.loads(inspected) for ports in container["NetworkSettings"]["Ports"].values()]
    published = [(binding["HostIp"], binding["HostPort"]) for bindings in ports for binding in bindings or ()]
    assert sorted(published) == sorted(("127.0.0.1", project.environment[name]) for name in compose.PUBLISHED_PORTS)


def test_the_broker_takes_no_message_that_would_fill_a_consumers_memory(project: Project) -> None:
    """The mounted file is read: the limit is the one that the documentation names."""
    found = output_of(
        project, "exec", "-T", "rabbitmq", "rabbitmqctl", "eval", "application:get_env(rabbit, max_message_size)."
    )
    assert found.strip() == f"{{ok,{MAX_MESSAGE_BYTES}}}"


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_drains_on_sigterm(project: Project, process: str) -> None:
    """`docker stop` ends it with 0 well before the grace period is over; then it comes back."""
    project.run("stop", process, quietly=True)
    container = output_of(project, "ps", "-q", "-a", process).strip()
    inspect = ["docker", "inspect", "-f", "{{.State.ExitCode}}", container]
    assert subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip() == "0"
    project.run("start", process, quietly=True)


def output_of(project: Project, *arguments: str) -> str:
    """What a compose command prints."""
    command = [*compose.compose_command(), "-p", project.name, *arguments]
    environment = {**os.environ, **project.environment}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout

"""What the local stacks promise without a server: one run of a project at a time, one message limit everywhere."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from ops import up
from ops.local_stack import StackError, compose, ports
from ops.local_stack.processes import Name
from ops.local_stack.program import REPOSITORY
from ops.local_stack.rabbitmq import MAX_MESSAGE_BYTES
from ops.local_stack.stack import new_signing_key


def test_a_second_run_of_a_project_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would remove the first one's containers before it starts its own."""
    monkeypatch.setattr(compose, "RUNS", tmp_path)
    with (
        compose.alone("voltline-unit-test"),
        pytest.raises(StackError, match="runs already"),
        compose.running(Console(), "voltline-unit-test"),
    ):
        pytest.fail("it started")
    with compose.alone("voltline-unit-test"):
        pass


FAKE_DOCKER = """#!/bin/sh
echo "$*" >>"$0.calls"
case "$*" in "ps --all --quiet --filter label=com.docker.compose.project=voltline-up") cat "$0.containers" ;; esac
"""


@pytest.mark.parametrize("left", ["", "21b1f41bc453\n"])
def test_down_names_only_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    """A killed `up` left its containers, or nothing ran here at all."""
    docker = tmp_path / "docker"
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    (tmp_path / "docker.containers").write_text(left)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOCAL_STACK", "docker")
    for module in (compose, up):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    assert up.down() == 0
    said, calls = capsys.readouterr().out, (tmp_path / "docker.calls").read_text()
    assert ("Containers of voltline-up removed" in said) == bool(left)
    assert ("Nothing of `up` runs here." in said) == (not left)
    assert "voltline-up --profile demo down" in calls
    assert "voltline-demo" not in said


def test_up_shows_whole_keys_and_commands_on_a_narrow_terminal() -> None:
    """What people copy must not be broken by it."""
    key = new_signing_key()
    url = f"postgresql://postgres:{'p' * 24}@127.0.0.1:28173/voltline"
    shown = up.Shown(
        urls={name: f"http://127.0.0.1:{3000 + number}" for number, name in enumerate(Name)},
        management_url="http://voltline:secret@127.0.0.1:15672",
        callback_url="http://127.0.0.1:8080/callback",
        signing_key=key,
        operate=[f"export DATABASE_URL={url}", "python -m ops callbacks list"],
    )
    screen = Console(width=80)
    with screen.capture() as told:
        up.show_addresses(screen, shown)
    lines = [line.rstrip() for line in told.get().splitlines()]
    assert f"Signing key      {key}" in lines
    assert lines[lines.index(f"export DATABASE_URL={url}") + 1] == "python -m ops callbacks list"


def test_the_containers_broker_and_the_documents_have_the_private_brokers_message_limit() -> None:
    """The figure stands in three places that cannot read each other."""
    file = (REPOSITORY / "deploy/rabbitmq.conf").read_text()
    assert re.findall(r"^max_message_size = (\d+)$", file, re.MULTILINE) == [str(MAX_MESSAGE_BYTES)]
    mounted = "- ./deploy/rabbitmq.conf:/etc/rabbitmq/conf.d/50-voltline.conf:ro"
    assert mounted in (REPOSITORY / "docker-compose.yml").read_text()
    assert f"`max_message_size = {MAX_MESSAGE_BYTES}`" in (REPOSITORY / "docs/configuration.md").read_text()


def test_a_port_is_given_to_one_run_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody listens on it yet when the next one asks, or nobody just now; a run that has ended has given it back."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ports, "HIGHEST_PORT", ports.LOWEST_PORT + 99)
    first, second = set(ports.free_ports(20)), set(ports.free_ports(20))
    assert not first & second
    claims = [*tmp_path.rglob("2*")]
    for claim in claims:
        os.utime(claim, (0, 0))
    assert not (first | second) & set(ports.free_ports(20))
    with subprocess.Popen(["true"]) as ended:
        pass
    for claim in claims:
        claim.write_text(str(ended.pid))
        os.utime(claim, (0, 0))
    assert len((first | second) & set(ports.free_ports(50))) >= 10

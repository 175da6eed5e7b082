"""What the local stacks promise without a server: one run of a project at a time, one message limit everywhere."""

import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from ops import up
from ops.local_stack import StackError, compose
from ops.local_stack.program import REPOSITORY
from ops.local_stack.rabbitmq import MAX_MESSAGE_BYTES


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


def test_the_containers_broker_and_the_documents_have_the_private_brokers_message_limit() -> None:
    """The figure stands in three places that cannot read each other."""
    file = (REPOSITORY / "deploy/rabbitmq.conf").read_text()
    assert re.findall(r"^max_message_size = (\d+)$", file, re.MULTILINE) == [str(MAX_MESSAGE_BYTES)]
    mounted = "- ./deploy/rabbitmq.conf:/etc/rabbitmq/conf.d/50-voltline.conf:ro"
    assert mounted in (REPOSITORY / "docker-compose.yml").read_text()
    assert f"`max_message_size = {MAX_MESSAGE_BYTES}`" in (REPOSITORY / "docs/configuration.md").read_text()

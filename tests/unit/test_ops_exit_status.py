"""What `python -m ops` exits with where the servers cannot be had."""

import pytest
from typer.testing import CliRunner

from ops.__main__ import app


@pytest.mark.parametrize("command", ["up", "down", "demo"])
def test_a_wrong_setting_is_2_as_a_wrong_command_line_is(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("LOCAL_STACK", "podman")
    ran = CliRunner().invoke(app, [command])
    assert (ran.exit_code, ran.output) == (2, "LOCAL_STACK is 'podman': it may be 'docker' or 'installed'\n")


def test_an_engine_that_does_not_answer_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may answer tomorrow."""
    monkeypatch.setenv("LOCAL_STACK", "docker")
    monkeypatch.setenv("PATH", "/nowhere")
    assert CliRunner().invoke(app, ["up"]).exit_code == 1

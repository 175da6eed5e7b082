"""A start with bad settings names every fault, one a line, and exits with 2."""

import os
import subprocess
import sys

import pytest

SECRET = "hunter2"


def start(module: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the process as an operator does, with nothing else in its environment."""
    clean = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", module], env=clean | environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("module", "environment", "named"),
    [
        ("session_worker", {}, ["DATABASE_URL", "AMQP_URL"]),
        (
            "session_worker",
            {"DATABASE_URL": f"mysql://u:{SECRET}@h/d", "AMQP_URL": "amqp://h", "SESSION_WORKER_HTTP_PORT": "99999"},
            ["DATABASE_URL", "SESSION_WORKER_HTTP_PORT"],
        ),
        (
            "gateway",
            {"GATEWAY_PORT": "x", "LOG_LEVEL": "loud"},
            ["DATABASE_URL", "AMQP_URL", "GATEWAY_PORT", "LOG_LEVEL"],
        ),
        (
            "callback_worker",
            {"CALLBACK_SIGNING_KEYS": f"whsec_{SECRET}", "CALLBACK_ALLOWED_NETWORKS": "nonsense"},
            ["DATABASE_URL", "AMQP_URL", "CALLBACK_SIGNING_KEYS", "CALLBACK_ALLOWED_NETWORKS"],
        ),
        (
            "callback_worker",
            {"INBOX_RETENTION_DAYS": "3", "CALLBACK_LOG_RETENTION_DAYS": "9"},
            [
                "DATABASE_URL",
                "AMQP_URL",
                "CALLBACK_SIGNING_KEYS",
                "INBOX_RETENTION_DAYS",
                "CALLBACK_LOG_RETENTION_DAYS",
            ],
        ),
        ("callback_worker", {}, ["DATABASE_URL", "AMQP_URL", "CALLBACK_SIGNING_KEYS"]),
    ],
)
def test_every_fault_is_named_and_no_secret_shown(module: str, environment: dict[str, str], named: list[str]) -> None:
    ended = start(module, **environment)
    assert ended.returncode == 2, ended.stderr
    lines = ended.stderr.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == sorted(named)
    assert SECRET not in ended.stderr
    assert "Traceback" not in ended.stderr

"""`python -m ops provision` with bad settings: every fault on a line of its own that begins with its variable."""

import os
import subprocess
import sys

import pytest

SECRET = "hunter2"
DATABASE_URL, AMQP_URL = f"postgresql://u:{SECRET}@h/d", f"amqp://u:{SECRET}@h"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, ["ADMIN_DATABASE_URL", "ADMIN_AMQP_URL"]),
        ({"DATABASE_URL": DATABASE_URL}, ["ADMIN_AMQP_URL"]),
        ({"GATEWAY_LOGIN": SECRET}, ["ADMIN_DATABASE_URL", "ADMIN_AMQP_URL", "GATEWAY_LOGIN", "ADMIN_MANAGEMENT_URL"]),
        ({"DATABASE_URL": DATABASE_URL, "ADMIN_AMQP_URL": f"http://{SECRET}"}, ["ADMIN_AMQP_URL"]),
        (
            {"DATABASE_URL": f"mysql://u:{SECRET}@h", "AMQP_URL": "nonsense", "ADMIN_MANAGEMENT_URL": SECRET},
            ["DATABASE_URL", "AMQP_URL", "ADMIN_MANAGEMENT_URL"],
        ),
        (
            {"DATABASE_URL": DATABASE_URL, "AMQP_URL": AMQP_URL, "SESSION_WORKER_LOGIN": f"worker:{SECRET}"},
            ["ADMIN_MANAGEMENT_URL"],
        ),
    ],
)
def test_every_fault_is_named_and_no_secret_shown(environment: dict[str, str], named: list[str]) -> None:
    clean = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-m", "ops", "provision"],
        env=clean | environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert sorted(line.split(":")[0] for line in ended.stderr.splitlines()) == sorted(named)
    assert SECRET not in ended.stderr

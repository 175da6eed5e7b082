"""A process that cannot listen ends before it begins: nobody could call it, or ask whether it is ready."""

import os
import socket
import subprocess
import sys

import pytest

from ops.local_stack.processes import PORT_VARIABLES, Name
from ops.local_stack.stack import new_signing_key
from tests.servers import REPOSITORY, House


def run_to_its_end(name: Name, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", name], cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "CALLBACK_SIGNING_KEYS": new_signing_key(), **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", Name)
def test_a_port_in_use_is_one_line(house: House, name: Name) -> None:
    """Not a traceback; and not exit 2, since the settings may well be right."""
    variable = PORT_VARIABLES[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run_to_its_end(name, **house.environment, **{variable: str(port)})
    assert ran.stderr == f"{variable}: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    assert (ran.returncode, ran.stdout) == (1, "")


@pytest.mark.parametrize("name", Name)
def test_a_host_that_is_elsewhere_is_one_line(house: House, name: Name) -> None:
    """An address of the documentation's network (RFC 5737) is nobody's."""
    variable = "GATEWAY_HOST" if name is Name.GATEWAY else "WORKER_HTTP_HOST"
    ran = run_to_its_end(name, **house.environment, ALLOW_ANONYMOUS="true", **{variable: "192.0.2.1"})
    assert ran.stderr == f"{variable}: this machine has no address 192.0.2.1\n"
    assert (ran.returncode, ran.stdout) == (1, "")

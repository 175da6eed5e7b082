"""The places at which the fault suite lets processes die."""

import os
import signal
import subprocess
import sys

import pytest

from ops.local_stack.program import REPOSITORY

SCRIPT = """
from shared import crash_points
for number in range(3):
    print(number, flush=True)
    crash_points.reach("here", ["a", number])
    crash_points.reach("there")
"""


def run(point: str) -> tuple[int, str]:
    environment = {**os.environ, "VOLTLINE_CRASH_POINT": point, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


@pytest.mark.parametrize(
    ("point", "lived_through"), [("here", "0\n"), ("here:2", "0\n1\n"), ("there:3", "0\n1\n2\n"), ("here@1", "0\n1\n")]
)
def test_a_process_dies_at_the_named_place_and_time(point: str, lived_through: str) -> None:
    assert run(point) == (-signal.SIGKILL, lived_through)


@pytest.mark.parametrize("point", ["", "elsewhere", "here:9", "here@b"])
def test_nothing_happens_anywhere_else(point: str) -> None:
    assert run(point) == (0, "0\n1\n2\n")

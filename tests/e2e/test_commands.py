"""`make up`, `make down` and `make demo` as people type them, on private servers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ops.local_stack import Kind, StackError, kind
from ops.local_stack.binaries import find_binaries, find_or_install
from tests.process_tree import descendants_of, wait_until_gone
from tests.servers import REPOSITORY, refuse

UP_TIMEOUT_S = 90
DEMO_TIMEOUT_S = 180
ENVIRONMENT = {**os.environ, "LOCAL_STACK": "installed"}

Run = tuple[subprocess.Popen[bytes], Path]


@pytest.fixture(autouse=True)
def binaries() -> None:
    """Containers are the compose tests' matter; here the servers are the machine's own, installed where that is due."""
    try:
        find_or_install(print) if kind() is Kind.INSTALLED else find_binaries()
    except StackError as error:
        refuse(error)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`python -m ops up`, at the point where it says that it is up, and the file that it writes to."""
    output = tmp_path / "output"
    with (
        output.open("wb") as written,
        subprocess.Popen(
            [sys.executable, "-m", "ops", "up"],
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=written,
            stderr=written,
            # As a script's shell starts what it puts into the background; `down` must end it all the same.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - one call, no locks
        ) as started,
    ):
        deadline = time.monotonic() + UP_TIMEOUT_S
        while "Try" not in output.read_text():
            assert started.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        yield started, output
        started.kill()


def test_up_prints_addresses_that_answer_and_down_ends_it(run: Run) -> None:
    """Every printed page is there; `down` drains the run, which exits with 0 and leaves nothing."""
    started, output = run
    text = output.read_text()
    pages = re.findall(r"http://127\.0\.0\.1:\d+/(?:api|metrics)(?=\s)", text)
    pages += re.findall(r"RabbitMQ UI\s+(\S+)", text)
    assert len(pages) == 5
    for page in pages:
        assert httpx.get(page, follow_redirects=True, trust_env=False).status_code == httpx.codes.OK
    below = descendants_of(started.pid)
    subprocess.run([sys.executable, "-m", "ops", "down"], cwd=REPOSITORY, env=ENVIRONMENT, check=True, timeout=60)
    # `down` has only seen the run's lock released.
    assert started.wait(30) == 0
    assert not wait_until_gone(below)


def test_nothing_of_a_killed_up_stays_behind(run: Run) -> None:
    """Servers and processes end with it, and `down` finds nothing to do."""
    started, _ = run
    below = descendants_of(started.pid)
    assert len(below) > 5
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not wait_until_gone(below)
    subprocess.run([sys.executable, "-m", "ops", "down"], cwd=REPOSITORY, env=ENVIRONMENT, check=True, timeout=60)


def test_the_demo_adds_up_and_is_readable_where_there_is_no_terminal() -> None:
    """Exit 0, the closing table, and no control characters in a pipe."""
    shown = subprocess.run(
        [sys.executable, "-m", "ops", "demo"], cwd=REPOSITORY, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEMO_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
    assert re.search(r"acknowledged\s+applied\s+delivered\s+lost\s+seconds\s+1,000\s+1,000\s+1,000\s+0\s", shown.stdout)
    assert shown.stdout.count("signature verified") == 6  # decided, started, completed, a link, paid, refunded
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", shown.stdout)

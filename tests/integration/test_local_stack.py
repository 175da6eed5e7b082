"""The private servers: they hold what they promise about other runs, other ports, and the end of their parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.local_stack import Server, StackError, installed_servers
from ops.local_stack import binaries as binaries_module
from ops.local_stack.binaries import find_binaries, find_or_install
from ops.local_stack.folder import FOLDER_PREFIX
from tests.process_tree import children_of, command_line_of, descendants_of, wait_until_gone
from tests.servers import REPOSITORY, refuse, run, takes_connections

# Starts servers, tells that they are up, and hangs as a test run would.
PARENT = """\
import time
from ops.local_stack import installed_servers
with installed_servers():
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def binaries() -> None:
    """These tests are about the installed servers, whatever the others run on."""
    try:
        find_binaries()
    except StackError as error:
        refuse(error)


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A program that holds servers, with the servers running."""
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        yield started
        started.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process tree from /proc")
class TestNothingStaysBehind:
    """However the parent ends, no server outlives it."""

    @pytest.mark.parametrize("wanted", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_when_the_parent_ends(self, parent: subprocess.Popen[str], wanted: signal.Signals) -> None:
        """The supervisor sees the closed pipe, ends all servers and removes their data."""
        below = descendants_of(parent.pid)
        assert len(below) > len(Server)
        folders = folders_of(below)
        parent.send_signal(wanted)
        parent.wait()
        assert not wait_until_gone(below)
        assert not any(folder.exists() for folder in folders)

    def test_when_the_supervisor_itself_is_killed(self, parent: subprocess.Popen[str]) -> None:
        """The kernel ends the servers, and the next run removes the data."""
        below = descendants_of(parent.pid)
        folders = folders_of(below)
        [supervisor] = children_of(parent.pid)
        os.kill(supervisor, signal.SIGKILL)
        assert not wait_until_gone(below)
        with installed_servers():
            assert not any(folder.exists() for folder in folders)


def test_two_runs_at_once_do_not_meet() -> None:
    """Each has its own ports, node and data; ending one leaves the other alone."""
    with installed_servers() as first:
        with installed_servers() as second:
            assert run(second.fresh("alike"))
            assert run(first.fresh("alike"))
        assert run(takes_connections(first, "alike"))


def test_missing_programs_are_named_with_the_commands_that_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody without root, or without apt-get, is told what to do."""
    monkeypatch.setattr(binaries_module, "_postgres_folders", lambda: iter([]))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StackError, match=r"PostgreSQL not found.*\n.*apt-get install.*\n.*dnf.*\n.*brew"):
        find_or_install(print)


def folders_of(pids: set[int]) -> set[Path]:
    """The data folders named on the processes' command lines."""
    arguments = [part for pid in pids for part in command_line_of(pid)]
    found = {Path(part) for part in arguments if Path(part).name.startswith(FOLDER_PREFIX)}
    assert found
    return found

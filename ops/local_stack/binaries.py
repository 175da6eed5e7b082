"""Finds the servers' programs on this machine and, as root on Debian, installs the missing ones."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.local_stack.servers import StackError

DEBIAN_PACKAGES = ("postgresql", "rabbitmq-server")
# Debian's hook that says whether a package may start its service; 101 forbids it. Ours are private servers on other
# ports; the package's own would stay behind on the standard ones.
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")
SERVICE_POLICY_TEXT = "#!/bin/sh\nexit 101\n"
# A slow mirror and a slow disk; a hang is told apart from work.
INSTALL_TIMEOUT_S = 600
# Another apt run (unattended upgrades) usually ends within a few minutes.
APT_LOCK_TIMEOUT_S = 300

HOW_TO_INSTALL = """\
{missing} not found. Start Docker, or install the servers:
  Debian, Ubuntu   apt-get install postgresql rabbitmq-server   (`make` does it by itself as root)
  Fedora           dnf install postgresql-server rabbitmq-server
  macOS            brew install postgresql@17 rabbitmq"""


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs that the servers are run from."""

    initdb: Path
    postgres: Path
    rabbitmq_server: Path
    epmd: Path


def find_binaries() -> Binaries:
    """The installed programs; raises `StackError` with the commands that install what is missing."""
    postgres = _find_in(_postgres_folders(), "postgres")
    rabbitmq_server = _find_in(_rabbitmq_folders(), "rabbitmq-server")
    epmd = _find_in(_erlang_folders(), "epmd")
    if postgres is None or rabbitmq_server is None or epmd is None:
        found = {"PostgreSQL": postgres, "RabbitMQ": rabbitmq_server, "Erlang's epmd": epmd}
        missing = " and ".join(name for name, path in found.items() if path is None)
        raise StackError(HOW_TO_INSTALL.format(missing=missing))
    return Binaries(initdb=postgres.with_name("initdb"), postgres=postgres, rabbitmq_server=rabbitmq_server, epmd=epmd)


def find_or_install(say: Callable[[str], None]) -> Binaries:
    """`find_binaries`, after installing Debian's packages where that is possible and needed; `say` hears of it."""
    try:
        return find_binaries()
    except StackError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
    say(f"Installing {' and '.join(DEBIAN_PACKAGES)} with apt-get (once) ...")
    with _services_kept_down():
        _apt_get("update", "-q")
        _apt_get("install", "-y", "-q", "--no-install-recommends", *DEBIAN_PACKAGES)
    return find_binaries()


def _postgres_folders() -> Iterator[Path]:
    def version(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", str(folder))]

    versions = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")]
    yield from sorted(versions, key=version, reverse=True)
    yield from _search_path()


def _rabbitmq_folders() -> Iterator[Path]:
    # First: Debian's program in /usr/sbin is a wrapper that changes the user, the folder and the environment.
    yield Path("/usr/lib/rabbitmq/bin")
    yield from _search_path()
    yield from (Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/opt/homebrew/sbin"))


def _erlang_folders() -> Iterator[Path]:
    yield from _search_path()
    for library in ("/usr/lib/erlang", "/usr/lib64/erlang", "/opt/homebrew/opt/erlang/lib/erlang"):
        yield Path(library, "bin")
        yield from sorted(Path(library).glob("erts-*/bin"), reverse=True)


def _search_path() -> list[Path]:
    return [Path(folder) for folder in os.get_exec_path() if folder]


def _find_in(folders: Iterator[Path], name: str) -> Path | None:
    for folder in folders:
        path = folder / name
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


@contextmanager
def _services_kept_down() -> Iterator[None]:
    """Forbids packages to start their services meanwhile; a policy that the machine already has is left alone."""
    try:
        handle = os.open(SERVICE_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield
        return
    try:
        with os.fdopen(handle, "w") as policy:
            policy.write(SERVICE_POLICY_TEXT)
        yield
    finally:
        SERVICE_POLICY.unlink(missing_ok=True)


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "-o", f"DPkg::Lock::Timeout={APT_LOCK_TIMEOUT_S}", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        answer = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=INSTALL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise StackError(f"`{' '.join(command)}` did not end within {INSTALL_TIMEOUT_S} s") from error
    if answer.returncode != 0:
        raise StackError(f"`{' '.join(command)}` failed:\n{(answer.stdout + answer.stderr)[-2000:]}")

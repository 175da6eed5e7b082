"""A private PostgreSQL: its folder, its settings, its readiness."""

import asyncio
import signal
import subprocess
from pathlib import Path

import asyncpg

from ops.local_stack.account import Account
from ops.local_stack.binaries import Binaries
from ops.local_stack.program import Plan, listens
from ops.local_stack.servers import StackError

SUPERUSER = "postgres"
# Durability (fsync, synchronous_commit) keeps its defaults, as the product's promise is about it. No Unix socket: in
# some temporary folders its path would be longer than the 107 bytes that the kernel allows.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
}
INITDB_TIMEOUT_S = 120
PING_TIMEOUT_S = 3


def postgres_plan(binaries: Binaries, folder: Path, *, port: int, password: str, account: Account | None) -> Plan:
    """Makes a new cluster in `folder`, which must be empty, and says how to run it."""
    settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(port)}.items()]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": str(folder)}
    _make_cluster(binaries, folder, password=password, account=account, environment=environment)
    return Plan(
        name="postgres",
        command=[str(binaries.postgres), "-D", str(folder / "data"), *settings],
        environment=environment,
        folder=folder,
        port=port,
        stop_signal=signal.SIGINT,  # "fast": sessions are cut, the data is written down
        end_signal=signal.SIGQUIT,  # "immediate": like a crash, but shared memory is given back
        is_ready=lambda: listens(port) and asyncio.run(database_answers(database_url(port, password))),
    )


def database_url(port: int, password: str) -> str:
    """The superuser's URL on the maintenance database."""
    return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"


async def database_answers(url: str) -> bool:
    """Whether the server at `url` takes connections (one that starts or recovers does not)."""
    try:
        connection = await asyncpg.connect(url, timeout=PING_TIMEOUT_S, ssl=False)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True


def _make_cluster(
    binaries: Binaries, folder: Path, *, password: str, account: Account | None, environment: dict[str, str]
) -> None:
    password_file = folder / "password"
    password_file.write_text(password)
    password_file.chmod(0o600)
    if account is not None:
        account.take_over(folder)
    made = subprocess.run(
        [
            str(binaries.initdb), "-D", str(folder / "data"), "-U", SUPERUSER, "-E", "UTF8", "--no-locale",
            "-A", "scram-sha-256", f"--pwfile={password_file}", "--no-sync",
        ],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INITDB_TIMEOUT_S,
        user=account.uid if account else None, group=account.gid if account else None,
        extra_groups=[] if account else None, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        raise StackError(f"initdb failed:\n{made.stdout}{made.stderr}")
    password_file.unlink()

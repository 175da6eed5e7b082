"""A private RabbitMQ with its own port mapper, node name and cookie: no other Erlang node on the machine matters."""

import os
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import httpx

from ops.local_stack.account import Account
from ops.local_stack.binaries import Binaries
from ops.local_stack.program import Plan, listens

ADMINISTRATOR = "voltline"
PLUGINS = "[rabbitmq_management,rabbitmq_prometheus].\n"
# What an AMQP 0-9-1 client says first; a broker that is up answers with a method frame (type 1).
AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
PING_TIMEOUT_S = 3
# Under this much free disk the broker takes no more messages; development needs little.
DISK_FREE_LIMIT = "50MB"
# As production should have it (docs/configuration.md); deploy/rabbitmq.conf says the same to the containers.
MAX_MESSAGE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class BrokerPorts:
    """Every port the broker listens on; all on loopback."""

    amqp: int
    management: int
    prometheus: int
    distribution: int
    epmd: int


def epmd_plan(binaries: Binaries, folder: Path, ports: BrokerPorts) -> Plan:
    """Erlang's port mapper in the foreground: the one that RabbitMQ would start by itself outlives it."""
    return Plan(
        name="epmd",
        command=[str(binaries.epmd), "-port", str(ports.epmd), "-address", "127.0.0.1"],
        environment={"PATH": "/usr/bin:/bin"},
        folder=folder,
        port=ports.epmd,
        stop_signal=signal.SIGTERM,
        end_signal=signal.SIGKILL,
        is_ready=lambda: listens(ports.epmd),
    )


def rabbitmq_plan(
    binaries: Binaries, folder: Path, ports: BrokerPorts, *, password: str, account: Account | None
) -> Plan:
    """Writes the broker's settings into `folder`, which must be empty, and says how to run it."""
    (folder / "rabbitmq.conf").write_text(_settings(ports, password))
    (folder / "enabled_plugins").write_text(PLUGINS)
    (folder / "environment").touch()
    (folder / "conf.d").mkdir()
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    if account is not None:
        account.take_over(folder)
    return Plan(
        name="rabbitmq",
        command=[str(binaries.rabbitmq_server)],
        environment=_environment(folder, ports),
        folder=folder,
        port=ports.amqp,
        stop_signal=signal.SIGTERM,
        end_signal=signal.SIGKILL,
        is_ready=lambda: amqp_answers(ports.amqp) and management_answers(management_url(ports.management, password)),
    )


def amqp_url(port: int, password: str) -> str:
    """The administrator's URL on the default vhost."""
    return f"amqp://{ADMINISTRATOR}:{password}@127.0.0.1:{port}/"


def management_url(port: int, password: str) -> str:
    """The administrator's URL of the HTTP API and the management UI."""
    return f"http://{ADMINISTRATOR}:{password}@127.0.0.1:{port}"


def amqp_answers(port: int) -> bool:
    """Whether a broker on `port` of 127.0.0.1 speaks AMQP."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PING_TIMEOUT_S) as connection:
            connection.sendall(AMQP_HEADER)
            return connection.recv(1) == METHOD_FRAME
    except OSError:
        return False


def management_answers(url: str) -> bool:
    """Whether the HTTP API takes the credentials in `url`."""
    try:
        return httpx.get(f"{url}/api/overview", timeout=PING_TIMEOUT_S, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _settings(ports: BrokerPorts, password: str) -> str:
    return "\n".join(
        [
            f"listeners.tcp.local = 127.0.0.1:{ports.amqp}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {ports.management}",
            "prometheus.tcp.ip = 127.0.0.1",
            f"prometheus.tcp.port = {ports.prometheus}",
            f"default_user = {ADMINISTRATOR}",
            f"default_pass = {password}",
            f"disk_free_limit.absolute = {DISK_FREE_LIMIT}",
            f"max_message_size = {MAX_MESSAGE_BYTES}",
            "",
        ]
    )


def _environment(folder: Path, ports: BrokerPorts) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),  # where Erlang looks for the cookie
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"voltline-{ports.amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "environment"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # No busy waiting (+sbwt): an idle broker must not take a core from what is being measured beside it.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
        ),
        # The start script then becomes the broker instead of staying beside it: one process to watch and to signal.
        "RUNNING_UNDER_SYSTEMD": "true",
    }

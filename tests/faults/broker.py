"""The broker's operator: rabbitmqctl, wherever the broker runs, and the management API."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aio_pika
import httpx
from aio_pika.exceptions import AMQPError

from ops.local_stack import Kind, Servers
from ops.local_stack.binaries import find_binaries
from tests.faults.crew import NeverFired

CONTROL_TIMEOUT_S = 60
LETTERS_MOST = 100_000
UP_WITHIN_S = 120.0
POLL_S = 0.2


@dataclass(frozen=True)
class Node:
    """How to run rabbitmqctl: its command line so far, its environment and the user to run it as."""

    command: tuple[str, ...]
    environment: Mapping[str, str] | None = None
    uid: int | None = None


@dataclass(frozen=True)
class Letter:
    """What lay in a queue of dead letters, or of what nobody is bound for."""

    queue: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def error(self) -> str:
        """Its code, where a worker set it aside; else the broker did, by the delivery limit."""
        return self.headers.get("error", "")

    def __str__(self) -> str:
        return f"in {self.queue}: {dict(self.headers)}"


class Broker:
    """An administrator of one vhost."""

    def __init__(self, servers: Servers, vhost: str, amqp_url: str) -> None:
        self._servers = servers
        self._vhost = vhost
        self.amqp_url = amqp_url
        self.letters: dict[str, Letter] = {}

    async def control(self, *arguments: str) -> str:
        """Run rabbitmqctl; raise NeverFired when it refuses."""
        return await asyncio.to_thread(self._control, arguments)

    def _control(self, arguments: Sequence[str]) -> str:
        node = _node(self._servers)
        ran = subprocess.run(
            [*node.command, *arguments], env=None if node.environment is None else dict(node.environment),
            user=node.uid, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=CONTROL_TIMEOUT_S, check=False,
        )  # fmt: skip
        if ran.returncode != 0:
            raise NeverFired(f"rabbitmqctl {arguments[0]}: {ran.stdout[-300:]}")
        return ran.stdout

    async def close_all_connections(self) -> int:
        """Close what the vhost has, as an operator does in the management UI; return how many there were."""
        listed = (await self._call("GET", f"/api/vhosts/{quote(self._vhost, safe='')}/connections")).json()
        for connection in listed:
            with suppress(httpx.HTTPStatusError):  # gone meanwhile
                await self._call("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
        return len(listed)

    async def node_facts(self) -> dict[str, Any]:
        """What the management API says of the node: its alarms, for example."""
        facts: dict[str, Any] = (await self._call("GET", "/api/nodes")).json()[0]
        return facts

    async def overview(self) -> dict[str, Any]:
        """The broker's versions."""
        facts: dict[str, Any] = (await self._call("GET", "/api/overview")).json()
        return facts

    async def messages(self, queue: str) -> int:
        """How many messages the management API shows for a queue, those in somebody's hands as well."""
        shown = (await self._call("GET", f"/api/queues/{quote(self._vhost, safe='')}/{queue}")).json()
        return int(shown.get("messages", 0))

    async def limit_queue(self, queue: str, most: int) -> None:
        """Let the queue refuse what would make it longer."""
        await self._limit(queue, {"max-length": most})

    async def limit_deliveries(self, queues: str, most: int) -> None:
        """Lower the delivery limit of the queues of this pattern; the smaller of the queue's and this one holds."""
        await self._limit(queues, {"delivery-limit": most})

    async def unlimit_queue(self) -> None:
        await self._call("DELETE", f"/api/policies/{quote(self._vhost, safe='')}/full")

    async def _limit(self, queues: str, definition: dict[str, int]) -> None:
        policy = {"pattern": f"^{queues}$", "apply-to": "queues", "definition": definition}
        await self._call("PUT", f"/api/policies/{quote(self._vhost, safe='')}/full", policy)

    async def delete_queue(self, queue: str) -> None:
        await self._call("DELETE", f"/api/queues/{quote(self._vhost, safe='')}/{queue}")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self._servers.management_url, timeout=10, trust_env=False) as api:
            answer = await api.request(method, path, json=body)
        answer.raise_for_status()
        return answer

    async def depths(self, queues: list[str]) -> dict[str, int]:
        """How many messages wait in each."""
        async with await aio_pika.connect(self.amqp_url, timeout=5) as connection:
            found = {}
            for queue in queues:
                async with connection.channel() as channel:
                    declared = await channel.declare_queue(queue, passive=True)
                    found[queue] = declared.declaration_result.message_count or 0
            return found

    async def collect_letters_when_up(self, queues: list[str]) -> None:
        """As `collect_letters`; a later row may have the broker down, or a queue deleted, just now."""
        async with asyncio.timeout(UP_WITHIN_S):
            while True:
                try:
                    await self.collect_letters(queues)
                    return
                except (OSError, AMQPError, TimeoutError, asyncio.CancelledError, RuntimeError, StopAsyncIteration):
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                await asyncio.sleep(POLL_S)

    async def collect_letters(self, queues: list[str]) -> dict[str, Letter]:
        """Take what lies in these queues, remember it by message id, and return it."""
        taken: dict[str, Letter] = {}
        async with await aio_pika.connect(self.amqp_url, timeout=5) as connection, connection.channel() as channel:
            for name in queues:
                queue = await channel.get_queue(name, ensure=False)
                while len(taken) < LETTERS_MOST and (message := await queue.get(fail=False, no_ack=True)) is not None:
                    headers = {key: str(value) for key, value in (message.headers or {}).items()}
                    letter = Letter(name, message.routing_key or "", message.body, headers)
                    taken[message.message_id or f"none {uuid4()}"] = letter
        self.letters |= taken
        return taken


def _node(servers: Servers) -> Node:
    port = urlsplit(servers.amqp_url).port
    if servers.kind == Kind.DOCKER:
        return Node((shutil.which("docker") or "docker", "exec", _container(port or 0), "rabbitmqctl"))
    program = find_binaries().rabbitmq_server.with_name("rabbitmqctl")
    for folder in Path("/proc").glob("[0-9]*"):
        environment = _environment_of(folder)
        if environment.get("RABBITMQ_NODENAME") == f"voltline-{port}@localhost":
            uid = folder.stat().st_uid
            return Node((str(program),), environment, uid if os.geteuid() == 0 else None)
    raise NeverFired("the broker's process is not to be found")


def _environment_of(folder: Path) -> dict[str, str]:
    try:
        pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _container(port: int) -> str:
    """The broker's container; testcontainers keeps it to itself, and the engine knows it by its port."""
    asked = [shutil.which("docker") or "docker", "ps", "--quiet", "--filter", f"publish={port}"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=CONTROL_TIMEOUT_S, check=True).stdout.strip()

"""The running pair of servers: where they are, a fresh place on them, and stopping one of them on purpose.

A fresh place is one empty database and one empty vhost of the same name, so that test modules and runs do not meet.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import httpx

# Creating a database copies a template: long under load, never this long.
FRESH_TIMEOUT_S = 30


class StackError(Exception):
    """The servers cannot be had; the text tells the person at the terminal what to do."""

    exit_status: ClassVar[int] = 1


class WrongSetting(StackError):
    """It was not tried: a variable says what cannot be."""

    exit_status = 2


class Server(StrEnum):
    """One of the two servers."""

    POSTGRES = "postgres"
    RABBITMQ = "rabbitmq"


class Control(StrEnum):
    """What can be done to a running server. A server that is started again keeps its port and its data."""

    STOP = "stop"
    KILL = "kill"
    START = "start"


@dataclass(frozen=True)
class Servers:
    """Running servers.

    `database_url` is the superuser's on the maintenance database, `amqp_url` the administrator's on the default
    vhost, and `management_url` the administrator's on RabbitMQ's HTTP API, credentials included.
    """

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    management_url: str = field(repr=False)
    kind: str
    control: Callable[[Control, Server], None] = field(repr=False, compare=False)

    async def fresh(self, name: str) -> tuple[str, str]:
        """Creates an empty database and vhost called `name`, which must be new; returns their URLs."""
        await self._execute(f'CREATE DATABASE "{name}"')
        await self._fresh_vhost(name)
        return with_path(self.database_url, name), with_path(self.amqp_url, name)

    async def drop(self, name: str) -> None:
        """Removes the database and vhost called `name`; connections to them are cut."""
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        async with self._management() as api:
            answer = await api.delete(f"/api/vhosts/{name}")
        if answer.status_code != httpx.codes.NOT_FOUND:
            answer.raise_for_status()

    def stop(self, server: Server) -> None:
        """Shuts one server down in an orderly way; returns when it is down."""
        self.control(Control.STOP, server)

    def kill(self, server: Server) -> None:
        """Ends one server as a power cut would; returns when it is gone."""
        self.control(Control.KILL, server)

    def start(self, server: Server) -> None:
        """Starts a stopped server on its old port and data; returns when it takes connections."""
        self.control(Control.START, server)

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.database_url, timeout=FRESH_TIMEOUT_S, ssl=False)
        try:
            await connection.execute(statement, timeout=FRESH_TIMEOUT_S)
        finally:
            await connection.close()

    async def _fresh_vhost(self, name: str) -> None:
        user = quote(urlsplit(self.management_url).username or "", safe="")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        async with self._management() as api:
            (await api.put(f"/api/vhosts/{name}")).raise_for_status()
            (await api.put(f"/api/permissions/{name}/{user}", json=everything)).raise_for_status()

    def _management(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.management_url, timeout=FRESH_TIMEOUT_S, trust_env=False)


def with_path(url: str, name: str) -> str:
    """The same server's URL for the database or vhost `name`."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(name, safe='')}"))

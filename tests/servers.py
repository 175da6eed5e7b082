"""What tests run on: one pair of servers a session, one provisioned house (database and vhost) a module."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from ops.local_stack import Kind, Servers, StackError, installed_servers, kind
from ops.local_stack.processes import Name
from ops.local_stack.rabbitmq import amqp_answers
from ops.local_stack.servers import with_path
from ops.local_stack.stack import with_login

REPOSITORY = Path(__file__).resolve().parents[1]
PROVISION_TIMEOUT_S = 90
CONNECT_TIMEOUT_S = 5
Result = TypeVar("Result")


@dataclass(frozen=True)
class House:
    """A module's own database and vhost; all URLs are the administrator's."""

    name: str
    database_url: str
    amqp_url: str
    management_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The two variables that every process needs."""
        return {"DATABASE_URL": self.database_url, "AMQP_URL": self.amqp_url}


def open_servers() -> AbstractContextManager[Servers]:
    """Containers where a Docker engine answers (or `LOCAL_STACK` says so), else the installed binaries."""
    if kind() is Kind.DOCKER:
        from tests.containers import container_servers  # noqa: PLC0415 - the Docker client is needed only here

        return container_servers(say=print)
    return installed_servers(say=print)


@contextmanager
def fresh_house(servers: Servers, name: str, *, provisioned: bool = True) -> Iterator[House]:
    """An empty database and vhost, provisioned unless told otherwise; both are dropped at the end."""
    name = f"{name[:40]}_{secrets.token_hex(4)}"
    database_url, amqp_url = run(servers.fresh(name))
    house = House(name, database_url, amqp_url, servers.management_url)
    try:
        if provisioned:
            provision(house)
        yield house
    finally:
        run(servers.drop(name))


def provision(house: House, *arguments: str, **environment: str) -> str:
    """Runs `python -m ops provision` as people do; returns what it wrote, fails the test unless it exits 0."""
    ran = subprocess.run(
        [sys.executable, "-m", "ops", "provision", *arguments],
        cwd=REPOSITORY, env={**os.environ, **house.environment, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PROVISION_TIMEOUT_S, check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        pytest.fail(f"`python -m ops provision` exited {ran.returncode}:\n{ran.stdout}", pytrace=False)
    return ran.stdout


def with_logins(house: House) -> dict[Name, dict[str, str]]:
    """Makes a login for each process in the house; returns the two URLs that each then gets."""
    logins = {name: f"{name}_{secrets.token_hex(4)}:{secrets.token_hex(8)}" for name in Name}
    named = {f"{name.upper()}_LOGIN": login for name, login in logins.items()}
    provision(house, ADMIN_MANAGEMENT_URL=house.management_url, **named)
    return {
        name: {
            "DATABASE_URL": with_login(house.database_url, login),
            "AMQP_URL": with_login(house.amqp_url, login),
        }
        for name, login in logins.items()
    }


async def takes_connections(servers: Servers, name: str) -> bool:
    """Whether both servers answer and have the database and vhost `name`."""
    try:
        database = await asyncpg.connect(with_path(servers.database_url, name), timeout=CONNECT_TIMEOUT_S)
        await database.close()
        async with httpx.AsyncClient(base_url=servers.management_url, trust_env=False) as api:
            vhost = await api.get(f"/api/vhosts/{name}")
    except (OSError, asyncpg.PostgresError, httpx.TransportError):
        return False
    return vhost.status_code == httpx.codes.OK and amqp_answers(urlsplit(servers.amqp_url).port or 0)


def refuse(error: StackError) -> NoReturn:
    """No servers: a skip at a person's machine, a failure in CI, where it would hide everything."""
    if os.environ.get("CI"):
        pytest.fail(f"no servers for the tests: {error}", pytrace=False)
    pytest.skip(f"no servers for the tests: {error}")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end on a loop of its own, whatever loop this thread has (fixtures run between tests)."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()

"""Exchanges, queues, bindings and broker users. Each function returns its faults in words; none means done."""

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

import aio_pika
import httpx
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from yarl import URL

from ops.logins import Logins
from shared.topology import EXCHANGES, QUEUES, Exchange, Queue

Thing = TypeVar("Thing", Exchange, Queue)

CONNECT_TIMEOUT_S = 5.0
HTTP_TIMEOUT_S = 10.0


class ManagementError(Exception):
    """The management API refused; the text says what and why."""


async def declare(url: str) -> list[str]:
    """Declare everything; what exists with other arguments stays as it is and is a fault."""
    async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S) as connection:
        faults = [await _try(connection, _declare_exchange, exchange) for exchange in EXCHANGES]
        faults += [await _try(connection, _declare_queue, queue) for queue in QUEUES]
    return [fault for fault in faults if fault]


async def compare(url: str) -> list[str]:
    """Say what is missing or differs, without making anything: only what exists is declared again."""
    async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S) as connection:
        faults = []
        for exchange in EXCHANGES:
            missing = await _try(connection, _find_exchange, exchange)
            faults.append(missing or await _try(connection, _declare_exchange, exchange))
        for queue in QUEUES:
            missing = await _try(connection, _find_queue, queue)
            faults.append(missing or await _try(connection, _declare_queue, queue))
    return [fault for fault in faults if fault]


async def grant(management_url: str, amqp_url: str, logins: Logins) -> list[str]:
    """Make each named user and let it configure nothing, publish and consume only what its process needs."""
    url = URL(management_url)
    vhost = quote(_vhost(amqp_url), safe="")
    auth = (url.user or "guest", url.password or "guest")
    base = str(url.with_user(None))
    async with httpx.AsyncClient(base_url=base, auth=auth, timeout=HTTP_TIMEOUT_S, trust_env=False) as client:
        for login, rights in logins.named():
            name = quote(login.name, safe="")
            await _put(client, f"/api/users/{name}", {"password": login.password, "tags": ""})
            permissions = {"configure": "^$", "write": _any_of(rights.publishes_to), "read": _any_of(rights.consumes)}
            await _put(client, f"/api/permissions/{vhost}/{name}", permissions)
    return []


def _vhost(amqp_url: str) -> str:
    """Return the virtual host as the AMQP client reads it: an empty path is `/`."""
    return URL(amqp_url).path.removeprefix("/").replace("%2F", "/") or "/"


def _any_of(names: tuple[str, ...]) -> str:
    return f"^({'|'.join(re.escape(name) for name in names)})$" if names else "^$"


async def _put(client: httpx.AsyncClient, path: str, body: dict[str, str]) -> None:
    try:
        response = await client.put(path, json=body)
    except httpx.HTTPError as error:
        raise ManagementError(f"management API: {type(error).__name__} {error}") from error
    if response.is_error:
        raise ManagementError(f"management API: PUT {path} answered {response.status_code} {response.text[:200]}")


async def _try(
    connection: AbstractConnection, work: Callable[[AbstractChannel, Thing], Awaitable[None]], thing: Thing
) -> str | None:
    """Do the work on a channel of its own, for a refusal closes the channel; return the refusal in words."""
    channel = await connection.channel()
    try:
        await work(channel, thing)
    except ChannelNotFoundEntity:
        return f"{thing.name} is missing: run provision"
    except ChannelPreconditionFailed as error:
        return f"{thing.name} exists with other arguments ({error}): empty it, delete it, run provision again"
    finally:
        await channel.close()
    return None


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.declare_exchange(exchange.name, exchange.kind, durable=True, arguments={**exchange.arguments})


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    declared = await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})
    for source, routing_key in queue.bindings:
        await declared.bind(source, routing_key)


async def _find_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.get_exchange(exchange.name, ensure=True)


async def _find_queue(channel: AbstractChannel, queue: Queue) -> None:
    await channel.get_queue(queue.name, ensure=True)

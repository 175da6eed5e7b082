"""Exchanges, queues, bindings and broker users. Each function returns its faults in words; none means done."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from ops.logins import Logins
from ops.management import open_management, permissions_of
from shared.topology import EXCHANGES, QUEUES, Exchange, Queue

Thing = TypeVar("Thing", Exchange, Queue)

CONNECT_TIMEOUT_S = 5.0


async def declare(url: str) -> list[str]:
    """Declare and bind everything; what exists with other arguments stays as it is and is a fault."""
    async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S) as connection:
        faults = [await _try(connection, _declare_exchange, exchange) for exchange in EXCHANGES]
        faults += [await _try(connection, _declare_queue, queue) for queue in QUEUES]
        faults += [await _try(connection, _bind_queue, queue) for queue in QUEUES]
    return [fault for fault in faults if fault]


async def look_up(url: str) -> list[str]:
    """Say what is missing. AMQP can ask no more than that without making something; `broker_check` can."""
    async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S) as connection:
        faults = [await _try(connection, _find_exchange, exchange) for exchange in EXCHANGES]
        faults += [await _try(connection, _find_queue, queue) for queue in QUEUES]
    return [fault for fault in faults if fault]


async def grant(management_url: str, amqp_url: str, logins: Logins) -> list[str]:
    """Make each named user and let it configure nothing, publish and consume only what its process needs."""
    async with open_management(management_url, amqp_url) as management:
        for login, rights in logins.named():
            await management.put_user(login)
            await management.put_permissions(login.name, permissions_of(rights))
    return []


async def _try(
    connection: AbstractConnection, work: Callable[[AbstractChannel, Thing], Awaitable[None]], thing: Thing
) -> str | None:
    """Do the work on a channel of its own, for a refusal closes the channel; return the refusal in words."""
    kind = type(thing).__name__.lower()
    channel = await connection.channel()
    try:
        await work(channel, thing)
    except ChannelNotFoundEntity:
        return f"{kind} {thing.name} is missing: run provision"
    except ChannelPreconditionFailed as error:
        return f"{kind} {thing.name} exists with other arguments ({error}): empty it, delete it, run provision again"
    finally:
        await channel.close()
    return None


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.declare_exchange(exchange.name, exchange.kind, durable=True, arguments={**exchange.arguments})


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})


async def _bind_queue(channel: AbstractChannel, queue: Queue) -> None:
    declared = await channel.get_queue(queue.name, ensure=False)
    for source, routing_key in queue.bindings:
        await declared.bind(source, routing_key)


async def _find_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.get_exchange(exchange.name, ensure=True)


async def _find_queue(channel: AbstractChannel, queue: Queue) -> None:
    await channel.get_queue(queue.name, ensure=True)

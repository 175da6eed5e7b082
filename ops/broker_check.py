"""Compares the broker with what provisioning makes. The management API tells all of it; AMQP would have to declare.

Each function returns the differences in words; none means alike. Bindings beyond ours are other people's matter.
"""

from collections.abc import Collection, Iterator
from typing import Any

from ops.logins import Login, Logins, Rights
from ops.management import Management, open_management, permissions_of
from shared.topology import EXCHANGES, QUEUES, Exchange, Queue

OTHER_ARGUMENTS = "empty it, delete it, run provision"


async def compare(management_url: str, amqp_url: str) -> list[str]:
    """Say which exchanges, queues and bindings are missing or differ."""
    async with open_management(management_url, amqp_url) as management:
        found = await management.definitions()
    exchanges = {exchange["name"]: exchange for exchange in found.get("exchanges", [])}
    queues = {queue["name"]: queue for queue in found.get("queues", [])}
    bound = {
        (binding["source"], binding["destination"], binding["routing_key"])
        for binding in found.get("bindings", [])
        if binding["destination_type"] == "queue"
    }
    return [
        *(fault for exchange in EXCHANGES for fault in _exchange_faults(exchange, exchanges.get(exchange.name))),
        *(fault for queue in QUEUES for fault in _queue_faults(queue, queues.get(queue.name), bound)),
    ]


async def compare_users(management_url: str, amqp_url: str, logins: Logins) -> list[str]:
    """Say which of the named users are missing or may do something else than their process needs."""
    async with open_management(management_url, amqp_url) as management:
        return [fault for login, rights in logins.named() for fault in await _user_faults(management, login, rights)]


def _exchange_faults(wanted: Exchange, found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield f"exchange {wanted.name} is missing: run provision"
    elif (found["type"], found["durable"], found["arguments"]) != (wanted.kind, True, wanted.arguments):
        shown = f"{found['type']}, {'durable' if found['durable'] else 'transient'}, {found['arguments']}"
        yield f"exchange {wanted.name} is {shown}, wanted {wanted.kind}, durable, {wanted.arguments}"


def _queue_faults(
    wanted: Queue, found: dict[str, Any] | None, bound: Collection[tuple[str, str, str]]
) -> Iterator[str]:
    if found is None:
        yield f"queue {wanted.name} is missing: run provision"
        return
    if (found["durable"], found["arguments"]) != (True, wanted.arguments):
        shown = f"{'durable' if found['durable'] else 'transient'}, {found['arguments']}"
        yield f"queue {wanted.name} is {shown}, wanted durable, {wanted.arguments}: {OTHER_ARGUMENTS}"
    for source, routing_key in wanted.bindings:
        if (source, wanted.name, routing_key) not in bound:
            yield f"queue {wanted.name} is not bound to {source} by {routing_key}: run provision"


async def _user_faults(management: Management, login: Login, rights: Rights) -> list[str]:
    user = await management.user(login.name)
    if user is None:
        return [f"user {login.name} is missing: run provision"]
    faults = []
    if user["tags"]:
        faults.append(f"user {login.name} has the tags {user['tags']}, wanted none")
    wanted, found = permissions_of(rights), await management.permissions(login.name)
    faults += [
        f"user {login.name} may {kind} {found.get(kind, 'nothing')}, wanted {wanted[kind]}"
        for kind in wanted
        if found.get(kind) != wanted[kind]
    ]
    return faults

"""A queue that holds as much as it may: publishes are refused, and taken again once there is room, however it came."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from shared.broker.publisher import Outcome, Publisher
from shared.messages import Message, Outgoing
from shared.topology import COMMANDS, SESSION_COMMANDS
from tests.servers import House
from tests.wire import Wire, eventually

FULL_AT = 5
# Of these, some always wait for the disk.
IN_FLIGHT = 50
TO_FULL_QUEUE, TO_OTHER_QUEUE = "session.start.v1", "payment.refund.v1"


class Policy:
    """An operator's limit on the length of the sessions' queue."""

    def __init__(self, house: House) -> None:
        self._api = httpx.AsyncClient(base_url=house.management_url, timeout=30, trust_env=False)
        self._path = f"/api/policies/{house.name}/limit"

    async def set(self, most: int) -> None:
        policy = {"pattern": f"^{SESSION_COMMANDS}$", "apply-to": "queues", "definition": {"max-length": most}}
        (await self._api.put(self._path, json=policy)).raise_for_status()

    async def lift(self) -> None:
        await self._api.delete(self._path)

    async def close(self) -> None:
        await self.lift()
        await self._api.aclose()


@pytest.fixture
async def policy(house: House) -> AsyncIterator[Policy]:
    made = Policy(house)
    yield made
    await made.close()


@pytest.fixture
async def publisher(house: House) -> AsyncIterator[Publisher]:
    made = Publisher(house.amqp_url, name="test")
    running = asyncio.create_task(made.run())
    await eventually(lambda: _is_connected(made))
    yield made
    running.cancel()
    await asyncio.wait([running])


async def _is_connected(publisher: Publisher) -> bool:
    return publisher.is_connected


async def publish(publisher: Publisher, routing_key: str = TO_FULL_QUEUE) -> Outcome:
    message = Message(body=b"{}", message_id=str(uuid4()), type=routing_key)
    (outcome,) = await publisher.publish(
        [Outgoing(exchange=COMMANDS, routing_key=routing_key, message=message)], timeout_s=15
    )
    return outcome


async def fill(publisher: Publisher, policy: Policy) -> None:
    await policy.set(FULL_AT)

    async def is_refused() -> bool:
        return await publish(publisher) is Outcome.REFUSED

    await eventually(is_refused)


async def test_a_queue_whose_limit_was_lifted_takes_messages_again(publisher: Publisher, policy: Policy) -> None:
    """RabbitMQ 3.10 does not tell the channel, which would refuse for as long as it lives."""
    await fill(publisher, policy)
    await policy.lift()

    async def is_confirmed() -> bool:
        return await publish(publisher) is Outcome.CONFIRMED

    await eventually(is_confirmed)


async def test_no_outcome_gets_lost_while_the_channel_is_changed(publisher: Publisher, policy: Policy) -> None:
    """What is in flight on the old channel is confirmed there, also what goes to a queue with room."""
    await fill(publisher, policy)
    outcomes: dict[str, list[Outcome]] = {TO_FULL_QUEUE: [], TO_OTHER_QUEUE: []}
    done = asyncio.Event()

    async def keep_publishing(routing_key: str) -> None:
        while not done.is_set():
            outcomes[routing_key].append(await publish(publisher, routing_key))

    async with asyncio.TaskGroup() as tasks:
        for routing_key in outcomes:
            for _ in range(IN_FLIGHT):
                tasks.create_task(keep_publishing(routing_key))
        await policy.lift()

        async def is_confirmed() -> bool:
            return Outcome.CONFIRMED in outcomes[TO_FULL_QUEUE]

        await eventually(is_confirmed)
        done.set()
    assert set(outcomes[TO_FULL_QUEUE]) == {Outcome.REFUSED, Outcome.CONFIRMED}
    assert set(outcomes[TO_OTHER_QUEUE]) == {Outcome.CONFIRMED}


async def test_a_full_queue_does_not_grow_by_new_channels(publisher: Publisher, policy: Policy, wire: Wire) -> None:
    """Each hears at its first publish that there is no room. What is taken off makes room as ever."""
    await fill(publisher, policy)
    depth = await wire.depth(SESSION_COMMANDS)
    first = publisher._lane

    async def is_on_another_channel() -> bool:
        assert await publish(publisher) is Outcome.REFUSED
        return publisher._lane is not first

    await eventually(is_on_another_channel)
    for _ in range(20):
        assert await publish(publisher) is Outcome.REFUSED
    assert await wire.depth(SESSION_COMMANDS) == depth
    while await wire.depth(SESSION_COMMANDS):
        await wire.get(SESSION_COMMANDS)

    async def is_confirmed() -> bool:
        return await publish(publisher) is Outcome.CONFIRMED

    await eventually(is_confirmed)


async def test_old_channels_are_closed(publisher: Publisher, policy: Policy, house: House) -> None:
    """A publisher has one channel again when nothing is in flight on the old one."""
    await fill(publisher, policy)
    first = publisher._lane
    assert first is not None

    async def is_closed() -> bool:
        await publish(publisher)
        return first.channel.is_closed

    await eventually(is_closed)
    assert publisher.is_connected
    assert await publish(publisher, TO_OTHER_QUEUE) is Outcome.CONFIRMED

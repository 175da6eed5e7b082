"""A consumer whose messages came back again and again: one of them may kill whoever holds it."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest

from shared.broker.consumer import Batch, Consumer
from shared.topology import SESSION_COMMANDS
from tests.servers import House
from tests.wire import Wire, eventually, open_wire

COUNT = 20
# Time for the broker to hand over more than it should.
WATCH_S = 0.5


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        yield opened


@pytest.fixture
def consumer(house: House) -> Consumer:
    return Consumer(house.amqp_url, SESSION_COMMANDS, name="test", prefetch=COUNT)


async def come_back(house: House, count: int) -> None:
    """Deliver everything to a consumer that dies; each time counts."""
    for _ in range(count):
        connection = await aio_pika.connect(house.amqp_url)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=COUNT)
        queue = await channel.get_queue(SESSION_COMMANDS, ensure=False)
        came: list[object] = []

        async def hold(message: object, came: list[object] = came) -> None:
            came.append(message)

        await queue.consume(hold)

        async def all_came(came: list[object] = came) -> bool:
            return len(came) == COUNT

        await eventually(all_came)
        await connection.close()


async def take(consumer: Consumer) -> Batch:
    async with asyncio.timeout(10):
        batch = await consumer.take(COUNT)
    assert batch is not None
    return batch


async def test_what_came_back_often_is_held_one_at_a_time_until_something_fresh_comes(
    house: House, wire: Wire, consumer: Consumer
) -> None:
    """So a message that kills its worker reaches the delivery limit alone."""
    sent = [await wire.publish("session.start.v1", {"chargerId": f"C-{number}"}) for number in range(COUNT)]
    await come_back(house, 3)
    running = asyncio.create_task(consumer.run())
    first = await take(consumer)
    await asyncio.sleep(WATCH_S)
    assert [each.message.message_id for each in first.messages] == sent[:1]
    assert await wire.depth(SESSION_COMMANDS) == COUNT - 1
    await first.ack()
    for expected in sent[1:]:
        batch = await take(consumer)
        assert [each.message.message_id for each in batch.messages] == [expected]
        await batch.ack()
    fresh = [await wire.publish("session.start.v1", {"chargerId": f"F-{number}"}) for number in range(COUNT)]
    came: list[str | None] = []

    async def all_came() -> bool:
        batch = await take(consumer)
        came.extend(each.message.message_id for each in batch.messages)
        return len(came) == COUNT

    await eventually(all_came)
    assert came == fresh
    await consumer.stop()
    running.cancel()
    await asyncio.wait([running])

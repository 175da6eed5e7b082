"""A consumer whose messages came back again and again: one of them may kill whoever holds it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest

from ops.local_stack.processes import Process, Processes
from shared.broker.consumer import Batch, Consumer
from shared.broker.hold import SUSPECT_AFTER_DELIVERIES
from shared.topology import PAYMENT_COMMANDS, SESSION_COMMANDS, dead_letter_queue
from tests.servers import House
from tests.wire import Wire, eventually, open_wire

DEAD = dead_letter_queue(SESSION_COMMANDS)
COUNT = 20
MANY = 500
# Time for the broker to hand over more than it should.
WATCH_S = 0.4
DELIVERY_LIMIT = SUSPECT_AFTER_DELIVERIES + 22


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        await opened.empty(SESSION_COMMANDS)
        yield opened


@asynccontextmanager
async def consuming(house: House, *, prefetch: int = COUNT) -> AsyncIterator[Consumer]:
    """A consumer that dies at the end: its connection goes, whatever it holds."""
    consumer = Consumer(house.amqp_url, SESSION_COMMANDS, name="test", prefetch=prefetch)
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        running.cancel()
        await asyncio.wait([running])


async def come_back(house: House, times: int, *, count: int = COUNT) -> None:
    """Deliver everything to a consumer that dies; each time counts."""
    for _ in range(times):
        connection = await aio_pika.connect(house.amqp_url)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=count)
        queue = await channel.get_queue(SESSION_COMMANDS, ensure=False)
        came: list[object] = []

        async def hold(message: object, came: list[object] = came) -> None:
            came.append(message)

        await queue.consume(hold)

        async def all_came(came: list[object] = came) -> bool:
            return len(came) == count

        await eventually(all_came)
        await connection.close()


async def take(consumer: Consumer, most: int = COUNT) -> Batch:
    async with asyncio.timeout(30):
        batch = await consumer.take(most)
    assert batch is not None
    return batch


def ids(batch: Batch) -> list[str | None]:
    return [each.message.message_id for each in batch.messages]


async def publish(wire: Wire, count: int) -> list[str]:
    return await wire.publish_many("session.start.v1", [{"chargerId": f"C-{number}"} for number in range(count)])


def is_empty(wire: Wire) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await wire.depth(SESSION_COMMANDS) == 0

    return look


def has_arrived(consumer: Consumer, count: int) -> Callable[[], Awaitable[bool]]:
    """What the broker has handed over may still be on its way."""

    async def look() -> bool:
        return len(consumer._hold._ready) == count

    return look


async def test_what_came_back_often_comes_last_and_nothing_is_held_beside_it(house: House, wire: Wire) -> None:
    """What is published meanwhile stays with the broker, for others to take; afterwards it comes."""
    old = await publish(wire, 1)
    await come_back(house, SUSPECT_AFTER_DELIVERIES, count=1)
    young = await publish(wire, COUNT)
    async with consuming(house, prefetch=2 * COUNT) as consumer:
        came: list[str | None] = []
        while len(came) < COUNT:
            batch = await take(consumer)
            await batch.ack()
            came += ids(batch)
        assert came == young
        alone = await take(consumer)
        assert ids(alone) == old
        later = await publish(wire, COUNT)
        await asyncio.sleep(WATCH_S)
        assert await wire.depth(SESSION_COMMANDS) == COUNT
        assert consumer.fault() is None
        await alone.ack()
        came = []
        while len(came) < COUNT:
            batch = await take(consumer)
            await batch.ack()
            came += ids(batch)
        assert came == later


@pytest.mark.parametrize("restarts", [1, SUSPECT_AFTER_DELIVERIES - 1])
async def test_a_few_restarts_are_no_reason_for_care(house: House, wire: Wire, restarts: int) -> None:
    """All that a killed worker held is taken at once by the next one, in its order."""
    sent = await publish(wire, COUNT)
    await come_back(house, restarts)
    async with consuming(house) as consumer:
        await eventually(has_arrived(consumer, COUNT))
        assert ids(await take(consumer)) == sent


async def test_a_few_deaths_keep_the_order_of_a_chargers_sessions(
    house: House, wire: Wire, processes: Processes, database: asyncpg.Connection
) -> None:
    """Out of order, its next session would find it busy, and a stop would come before its start."""
    session_ids = [str(uuid4()) for _ in range(50)]
    for number, session_id in enumerate(session_ids):
        await wire.publish("session.start.v1", {"sessionId": session_id, "chargerId": f"O-{number % 10}"})
        await wire.publish("session.stop.v1", {"sessionId": session_id})
    for _ in range(5):
        worker = processes.launch("session_worker", VOLTLINE_CRASH_POINT="session_worker.before_commit")
        await eventually(has_died(worker), timeout_s=60)
    worker = await processes.start("session_worker")
    ended = "SELECT count(*) FROM charging_sessions WHERE id = ANY($1) AND phase IN ('COMPLETED', 'CANCELLED')"
    await eventually(lambda: database.fetchval(f"SELECT ({ended}) = 50", session_ids), timeout_s=60)
    assert await database.fetchval(f"{ended} AND phase = 'CANCELLED'", session_ids) == 0
    assert await worker.stop() == 0


def has_died(worker: Process) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return worker.exit_code is not None

    return look


async def test_a_message_that_kills_ends_alone_in_the_dead_letters(house: House, wire: Wire) -> None:
    """However far behind it lies, and whatever lies behind it: its neighbours are all settled before the limit."""
    sent = await publish(wire, 60)
    killer = sent[40]
    await come_back(house, SUSPECT_AFTER_DELIVERIES, count=60)
    settled: list[str | None] = []
    async with limited_deliveries(house):
        while not await is_set_aside(wire)():
            async with consuming(house, prefetch=60) as consumer:
                while (batch := await next_batch(consumer, wire)) is not None and killer not in ids(batch):
                    await batch.ack()
                    settled += ids(batch)
    assert (await wire.get(DEAD)).message_id == killer
    assert set(settled) == set(sent) - {killer}
    await eventually(is_empty(wire))


def is_set_aside(wire: Wire) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await wire.depth(DEAD) > 0

    return look


async def next_batch(consumer: Consumer, wire: Wire) -> Batch | None:
    """What comes, or None once there is a dead letter."""

    async def look() -> bool:
        return consumer._hold.has_ready or await is_set_aside(wire)()

    await eventually(look)
    return await take(consumer, 60) if consumer._hold.has_ready else None


@asynccontextmanager
async def limited_deliveries(house: House) -> AsyncIterator[None]:
    """Fewer than a hundred, or the test would last."""
    path = f"/api/policies/{house.name}/limit"
    policy = {
        "pattern": f"^({SESSION_COMMANDS}|{PAYMENT_COMMANDS})$",
        "apply-to": "queues",
        "definition": {"delivery-limit": DELIVERY_LIMIT},
    }
    async with httpx.AsyncClient(base_url=house.management_url, timeout=30, trust_env=False) as api:
        (await api.put(path, json=policy)).raise_for_status()
        yield
        await api.delete(path)


@pytest.mark.parametrize("seed", range(3))
async def test_each_message_comes_once_whatever_the_batches(house: House, wire: Wire, seed: int) -> None:
    """Suspects and others, before and after them in the queue; some acks cover all before them, some one message."""
    chance = random.Random(seed)
    sent = await publish(wire, MANY)
    await come_back(house, SUSPECT_AFTER_DELIVERIES, count=MANY)
    sent += await publish(wire, MANY)
    came: list[str | None] = []
    async with consuming(house, prefetch=MANY) as consumer:
        while len(came) < len(sent):
            batch = await take(consumer, chance.randint(1, 40))
            came += ids(batch)
            await batch.ack()
        await eventually(is_empty(wire))
    assert sorted(map(str, came)) == sorted(sent)
    await asyncio.sleep(WATCH_S)
    assert await wire.depth(SESSION_COMMANDS) == 0


@pytest.mark.parametrize("settled_first", [0, 1, 7, 100])
async def test_a_stop_in_the_midst_of_it_leaves_the_rest_to_others(
    house: House, wire: Wire, settled_first: int
) -> None:
    """Nothing is lost. Some of it may come twice: the broker drops acks of a channel that ends just then."""
    sent = await publish(wire, MANY)
    await come_back(house, SUSPECT_AFTER_DELIVERIES, count=MANY)
    done: list[str | None] = []
    async with consuming(house, prefetch=MANY) as consumer:
        while len(done) < settled_first:
            batch = await take(consumer, settled_first - len(done))
            await batch.ack()
            done += ids(batch)
        in_hand = await take(consumer, 3)
        await consumer.stop()
        assert await consumer.take(MANY) is None
        await in_hand.ack()  # a drain settles what it has in hand
        done += ids(in_hand)
    async with consuming(house, prefetch=MANY) as other:
        while len(set(done)) < MANY:
            batch = await take(other, MANY)
            done += ids(batch)
            await batch.ack()
    assert set(done) == set(sent)


async def test_what_kills_on_one_queue_spares_the_other_of_its_process(
    house: House, wire: Wire, processes: Processes, database: asyncpg.Connection
) -> None:
    """A death counts for all that the process holds; the killer alone stands first in its queue each time."""
    [killer] = await wire.publish_many("payment.refund.v1", [{"sessionId": str(uuid4()), "amount": "1.00"}])
    sent = await publish(wire, 200)
    async with limited_deliveries(house):
        while not await wire.depth(dead_letter_queue(PAYMENT_COMMANDS)):
            worker = processes.launch("session_worker", VOLTLINE_CRASH_POINT=f"session_worker.before_commit@{killer}")
            await eventually(has_ended_or_may(worker, wire), timeout_s=60)
        await eventually(is_empty(wire), timeout_s=60)
        # The last worker may still have the last of them in hand.
        begun = "SELECT count(*) = $2 FROM charging_sessions WHERE id = ANY($1)"
        await eventually(lambda: database.fetchval(begun, sent, len(sent)), timeout_s=60)
    assert await wire.depth(DEAD) == 0


def has_ended_or_may(worker: Process, wire: Wire) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return worker.exit_code is not None or await wire.depth(dead_letter_queue(PAYMENT_COMMANDS)) > 0

    return look

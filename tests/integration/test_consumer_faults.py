"""A consumer that is registered and gets nowhere says so, and goes on when it can."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from shared.broker import connection, consumer, properties
from shared.broker.consumer import FRUITLESS_MOST, Consumer
from shared.messages import Inbound
from shared.topology import SESSION_COMMANDS
from tests.servers import House
from tests.wire import Wire, eventually, open_wire

TIMESTAMP_OF_2_62 = (1 << 6).to_bytes(2, "big") + (1 << 62).to_bytes(8, "big")
WATCH_FOR_S = 1.0


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        await opened.empty(SESSION_COMMANDS)
        yield opened


@pytest.fixture
async def consuming(house: House) -> AsyncIterator[Consumer]:
    made = Consumer(house.amqp_url, SESSION_COMMANDS, name="test", prefetch=10)
    running = asyncio.create_task(made.run())
    await says(made, None)
    yield made
    running.cancel()
    await asyncio.wait([running])


async def says(made: Consumer, words: str | None) -> None:
    async def look() -> bool:
        fault = made.fault()
        return fault is None if words is None else words in (fault or "")

    await eventually(look, timeout_s=40)


async def is_faulty_all_the_while(made: Consumer) -> None:
    """Whenever a probe comes: a connection that is up for a moment is no sign of health."""
    until = asyncio.get_running_loop().time() + WATCH_FOR_S
    while asyncio.get_running_loop().time() < until:
        assert made.fault() is not None
        await asyncio.sleep(0.001)


async def settles(made: Consumer, count: int) -> None:
    async with asyncio.timeout(40):
        while count > 0:
            batch = await made.take(10)
            assert batch is not None
            await batch.ack()
            count -= len(batch.messages)


async def test_a_message_that_the_library_dies_of_shows(
    wire: Wire, consuming: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection ends as soon as it is up, and so on for ever: what the tolerant decoder is there against."""
    with monkeypatch.context() as strict:
        strict.setattr(ContentHeader, "unmarshal", properties._strict_unmarshal)
        strict.setattr(connection, "install_tolerant_decoder", lambda: None)
        await wire.publish_raw("session.start.v1", b"{}", TIMESTAMP_OF_2_62)
        await says(consuming, f"ended {FRUITLESS_MOST} times in a row, at once")
        await is_faulty_all_the_while(consuming)
    await settles(consuming, 1)
    await says(consuming, None)


async def test_a_message_that_we_cannot_read_shows(
    wire: Wire, consuming: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: nobody would hear of it, and the message would be held for ever."""

    def breaks(_: DeliveredMessage) -> Inbound:
        raise KeyError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr(properties, "inbound", breaks)
        await wire.publish("session.start.v1", {"chargerId": "C-1"})
        await says(consuming, "times in a row, at once")
        await is_faulty_all_the_while(consuming)
    await settles(consuming, 1)
    await says(consuming, None)


async def test_messages_that_are_taken_and_never_settled_show(
    wire: Wire, consuming: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has become of them inside, and although the connection is in the best of health."""
    ahead_s = 0.0
    monkeypatch.setattr(consumer, "_now_s", lambda: asyncio.get_running_loop().time() + ahead_s)
    await wire.publish("session.start.v1", {"chargerId": "C-1"})
    batch = await consuming.take(10)
    assert batch is not None
    assert consuming.fault() is None
    ahead_s = 21.0
    await says(consuming, "1 messages held, none settled for 2")
    await batch.ack()
    assert consuming.fault() is None


async def test_a_consumer_that_the_broker_does_not_register_tries_again(
    house: House, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without a leader answers nothing, while heartbeats go on."""
    made = Consumer(house.amqp_url, SESSION_COMMANDS, name="test", prefetch=10)
    monkeypatch.setattr(consumer, "ANSWER_TIMEOUT_S", 0.0)
    running = asyncio.create_task(made.run())
    await says(made, "no consumer on session_worker.commands")
    await is_faulty_all_the_while(made)
    monkeypatch.setattr(consumer, "ANSWER_TIMEOUT_S", 5.0)
    await wire.publish("session.start.v1", {"chargerId": "C-1"})
    await settles(made, 1)
    running.cancel()
    await asyncio.wait([running])

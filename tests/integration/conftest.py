"""What a test says and hears through: events, the broker's wire, the callbacks' log, the database."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ops.local_stack.processes import Processes
from tests.callbacks import CallbackLog, EventSource, StartWorker, open_log, open_source, open_workers
from tests.past import Past
from tests.servers import House
from tests.wire import Wire, open_wire


@pytest.fixture
async def source(house: House) -> AsyncIterator[EventSource]:
    """Publishes events as a session worker does."""
    async with open_source(house.amqp_url) as opened:
        yield opened


@pytest.fixture
async def log(house: House) -> AsyncIterator[CallbackLog]:
    """Reads what became of deliveries and attempts."""
    async with open_log(house.database_url) as opened:
        yield opened


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    """The administrator's connection to the broker, which hears all events."""
    async with open_wire(house.amqp_url) as opened:
        yield opened


@pytest.fixture
async def start_worker(processes: Processes) -> AsyncIterator[StartWorker]:
    """Starts callback workers that end with the test."""
    async with open_workers(processes) as start:
        yield start


@pytest.fixture
async def past(database: asyncpg.Connection) -> Past:
    """Writes rows that are old; there are none before."""
    past = Past(database)
    await past.empty()
    return past

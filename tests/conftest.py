"""Fixtures over real parts: `servers` (a session), `house` and `processes` (a module), others (a test)."""

import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import settings

from ops.local_stack import Servers, StackError
from ops.local_stack.processes import Processes
from ops.receiver import Receiver
from tests.servers import House, fresh_house, open_servers, refuse, with_logins
from tests.wrong_clock import MakeClock, WrongClock

# Standard Webhooks' own test vector's key: 24 bytes, known to everybody, good for tests alone.
SIGNING_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

# An example that takes long on a busy machine is no failure.
settings.register_profile("voltline", deadline=None)
settings.load_profile("voltline")

# What a shell runs in the background (`nohup make test &`) ignores Ctrl-C; the programs that tests interrupt shall not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One PostgreSQL and one RabbitMQ for the whole session; starting RabbitMQ takes seconds."""
    try:
        opened = open_servers()
        running = opened.__enter__()
    except StackError as error:
        refuse(error)
    try:
        yield running
    finally:
        opened.__exit__(None, None, None)


@pytest.fixture(scope="module")
def house(servers: Servers, request: pytest.FixtureRequest) -> Iterator[House]:
    """A provisioned database and vhost that no other module sees."""
    with fresh_house(servers, request.module.__name__.rpartition(".")[2]) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def processes(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts Voltline's processes in the module's house, each with its own least-privilege login.

    Drains them at its end. Failing tests show their logs.
    """
    environment = {
        **house.environment,
        "CALLBACK_SIGNING_KEYS": SIGNING_KEY,
        "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
    }
    started = Processes(environment, Path(tmp_path_factory.mktemp("logs")), own=with_logins(house))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    """The administrator's connection to the database."""
    connection = await asyncpg.connect(house.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def wrong_clock(tmp_path: Path) -> MakeClock:
    """Makes a clock that is off from its start."""

    def make(step: str) -> WrongClock:
        folder = tmp_path / step
        folder.mkdir()
        clock = WrongClock.made_in(folder)
        if clock is None:
            if os.environ.get("CI"):
                pytest.fail("no libfaketime on this machine: apt-get install faketime")
            pytest.skip("no libfaketime on this machine: apt-get install faketime")
        clock.set(step)
        return clock

    return make


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A subscriber that records every callback and verifies its signature."""
    async with Receiver(SIGNING_KEY) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the processes' logs under a failed test's traceback."""
    report = yield
    started = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(started, Processes):
        report.sections.extend(started.log_tails().items())
    return report

"""Migration 0006 beside workers that write: it locks nobody out, and one that was broken off is done anew."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ops.database_setup import _config, _with_connection, migrate
from ops.local_stack import Servers
from tests.servers import House, fresh_house
from tests.wire import eventually

WRITE = """INSERT INTO inbox VALUES ($1, 'session.meter.v1', '\\x00', $1, 'APPLIED', NULL, now())"""


@pytest.fixture
async def house(servers: Servers) -> AsyncIterator[House]:
    """A database as the revision before left it."""
    with fresh_house(servers, "upgraded", provisioned=False) as fresh:
        await _with_connection(fresh.database_url, _upgrade_to_0005)
        yield fresh


@pytest.fixture
async def writers(house: House) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    connections = await asyncpg.connect(house.database_url), await asyncpg.connect(house.database_url)
    yield connections
    for connection in connections:
        await connection.close()


def _upgrade_to_0005(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "0005")
    connection.commit()


async def waits(connection: asyncpg.Connection) -> int | None:
    """The process that builds or drops an index, and waits for a writer."""
    pid: int | None = await connection.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '% INDEX %' AND wait_event_type = 'Lock'"
    )
    return pid


async def indexes(connection: asyncpg.Connection) -> dict[str, bool]:
    """Those of the inbox, and whether each may be used."""
    rows = await connection.fetch(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = 'inbox'::regclass"
    )
    return {row["relname"]: row["indisvalid"] for row in rows}


async def test_writers_go_on_while_indexes_are_built_and_what_was_broken_off_is_built_anew(
    house: House, writers: tuple[asyncpg.Connection, asyncpg.Connection]
) -> None:
    """A batch that is under way holds up the migration, and the migration no other batch; nor does a second run."""
    under_way, other = writers
    await other.execute("SET lock_timeout = '1s'")
    async with under_way.transaction():
        await under_way.execute(WRITE, uuid4())
        broken_off = asyncio.create_task(migrate(house.database_url))
        pid = await eventually(lambda: waits(other))
        await other.execute(WRITE, uuid4())
        await other.execute("SELECT pg_cancel_backend($1)", pid)
        with pytest.raises(DBAPIError, match="cancel"):
            await broken_off
        assert (await indexes(other))["inbox_passing"] is False
        runs = [asyncio.create_task(migrate(house.database_url)) for _ in range(2)]
        await eventually(lambda: waits(other))
        await other.execute(WRITE, uuid4())
    assert await asyncio.gather(*runs) == [[], []]
    assert await indexes(other) == {"inbox_pkey": True, "inbox_passing": True, "inbox_held": True}
    assert await other.fetchval("SELECT count(*) FROM inbox") == 3

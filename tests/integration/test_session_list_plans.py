"""The session list at size: every page of every sensible filter walks an index in the list's order, and stops."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.reads import Cursor, SessionFilter, page_statement
from shared.database import create_engine
from shared.resources import Status
from tests.servers import House

ROWS = 200_000
NEWEST = datetime(2026, 5, 4, tzinfo=UTC)
# A session every two minutes: 200,000 reach back nine months.
STEP = timedelta(minutes=2)
MIDDLE = NEWEST - ROWS // 2 * STEP
DEEP = Cursor(NEWEST - ROWS * 9 // 10 * STEP, UUID(int=0))
# Rows that a page of 21 may look at; sorting or sifting the whole table would be 200,000.
MOST_ROWS_READ = 2_500

# 500 chargers, 5,000 drivers; 98 % completed, 1 % cancelled, the newest 200 in progress; one client has nearly all
# sessions, one has a few old ones.
_FILL = """
    INSERT INTO charging_sessions (id, "chargerId", "driverId", status, phase, "startedAt", "createdAt", "updatedAt",
                                   client, sequence, metadata)
    SELECT gen_random_uuid(), CASE WHEN n <= 200 THEN 'C-' || n ELSE 'C-' || n * 7919 % 500 END,
           'D-' || n * 104729 % 5000, status, CASE status WHEN 'IN_PROGRESS' THEN 'ACTIVE' ELSE status END,
           created, created, created, CASE WHEN n % 1000 = 999 AND n > 150000 THEN 'small' ELSE 'big' END, 1,
           '{"bay": 3, "location": "Station A", "maxPower": "150kW"}'
    FROM generate_series(CAST(1 AS bigint), CAST($1 AS bigint)) AS n,
         LATERAL (SELECT CAST($2 AS timestamptz) - n * interval '2 minutes' AS created,
                         CASE WHEN n <= 200 THEN 'IN_PROGRESS' WHEN n % 100 = 0 THEN 'CANCELLED' ELSE 'COMPLETED' END
                             AS status) AS made"""

FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    "charger": {"charger_id": "C-7"},
    "driver": {"driver_id": "D-7"},
    "completed": {"status": Status.COMPLETED},
    "cancelled": {"status": Status.CANCELLED},
    "in progress": {"status": Status.IN_PROGRESS},
    "big client": {"client": "big"},
    "small client": {"client": "small"},
    "unknown client": {"client": "nobody"},
    "unknown charger": {"charger_id": "nowhere"},
    "time range": {"created_from": MIDDLE - timedelta(days=1), "created_to": MIDDLE},
    "until": {"created_to": MIDDLE},
    "charger and status": {"charger_id": "C-7", "status": Status.CANCELLED},
    "driver and status": {"driver_id": "D-7", "status": Status.COMPLETED},
    "charger and driver": {"charger_id": "C-7", "driver_id": "D-7"},
    "charger and time": {"charger_id": "C-7", "created_from": MIDDLE - timedelta(days=30), "created_to": MIDDLE},
    "client and status": {"client": "big", "status": Status.IN_PROGRESS},
    "small client and status": {"client": "small", "status": Status.COMPLETED},
    "client, charger and status": {"client": "big", "charger_id": "C-7", "status": Status.COMPLETED},
    "client and time": {"client": "big", "created_to": MIDDLE},
    "status and time": {"status": Status.CANCELLED, "created_to": MIDDLE},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(house: House) -> None:
    """Over a connection without the time limits of the processes' own."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute(_FILL, ROWS, NEWEST)
    await connection.execute("VACUUM ANALYZE charging_sessions")
    await connection.close()


@pytest.fixture
async def engine(filled: None, house: House) -> AsyncIterator[AsyncEngine]:
    created = create_engine(house.database_url, name="plans", pool_size=1)
    yield created
    await created.dispose()


async def plan_of(connection: AsyncConnection, wanted: SessionFilter, mode: str) -> dict[str, Any]:
    """The plan of the gateway's own statement, prepared, as the driver prepares it."""
    statement, parameters = page_statement(wanted)
    for number, name in enumerate(parameters, start=1):
        statement = re.sub(rf":{name}\b", f"${number}", statement)
    await connection.exec_driver_sql(f"SET plan_cache_mode = {mode}")
    await connection.exec_driver_sql(f"PREPARE page AS {statement}")
    given = ", ".join(f"'{value}'" for value in parameters.values())
    explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page({given})")
    content = explained.scalar_one()
    plan: dict[str, Any] = (orjson.loads(content) if isinstance(content, str) else content)[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node: dict[str, Any]) -> float:
    return float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * float(node["Actual Loops"])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("page", ["first", "deep"])
@pytest.mark.parametrize("name", FILTERS)
async def test_a_page_reads_an_index_and_little_else(engine: AsyncEngine, name: str, page: str, mode: str) -> None:
    """No scan of the table, no sort but of a few hundred rows, whether the plan is kept or made for the values."""
    wanted = SessionFilter(limit=20, after=DEEP if page == "deep" else None, **FILTERS[name])
    async with engine.connect() as connection:
        found = list(nodes(await plan_of(connection, wanted, mode)))
    assert not any(node["Node Type"] == "Seq Scan" for node in found)
    assert sum(rows_read(node) for node in found if "Scan" in node["Node Type"]) <= MOST_ROWS_READ

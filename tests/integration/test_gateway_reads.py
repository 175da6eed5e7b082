"""The gateway's GETs on a real database, with the rights that provisioning gives it."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from ops.local_stack.processes import Name, Process, Processes
from shared.meter import Meter, meter_json
from shared.pricing import Tariff, tariff_json
from tests.servers import House, provision
from tests.unit.gateway.test_bad_input import problem

NOW = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)
KEYS = {"app-key": ("app", "sessions"), "other-key": ("other", "sessions"), "boss-key": ("boss", "operator")}
PASSWORD = "read-only"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(house: House, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """A gateway with API keys, under a login that may only SELECT, and only publish."""
    login = f"{house.name[-30:]}_gateway"
    provision(house, GATEWAY_LOGIN=f"{login}:{PASSWORD}", ADMIN_MANAGEMENT_URL=house.management_url)
    keys = Path(tmp_path_factory.mktemp("keys")) / "keys"
    lines = (f"{name} {hashlib.sha256(key.encode()).hexdigest()} {scope}" for key, (name, scope) in KEYS.items())
    keys.write_text("\n".join(lines))
    return await processes.start(
        Name.GATEWAY,
        API_KEYS_FILE=str(keys),
        DATABASE_URL=_as_login(house.database_url, login),
        AMQP_URL=_as_login(house.amqp_url, login),
        OCPI_COUNTRY_CODE="NL",
        OCPI_PARTY_ID="VOL",
    )


def _as_login(url: str, login: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
async def client(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, headers={"X-API-Key": "boss-key"}) as opened:
        yield opened


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    """The administrator's connection; the tables are empty at the start of every test."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("TRUNCATE charging_sessions, charging_session_requests, drivers, stations, tariffs")
    yield connection
    await connection.close()


async def insert(database: asyncpg.Connection, table: str, values: dict[str, Any]) -> UUID:
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await database.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())
    row_id: UUID = values["id"]
    return row_id


async def insert_session(database: asyncpg.Connection, **changes: Any) -> UUID:
    defaults = {
        "id": uuid4(), "chargerId": f"C-{uuid4()}", "status": "IN_PROGRESS", "phase": "ACTIVE", "createdAt": NOW,
        "updatedAt": NOW, "client": "app", "sequence": 1,
    }  # fmt: skip
    return await insert(database, "charging_sessions", defaults | changes)


async def insert_request(database: asyncpg.Connection, **changes: Any) -> UUID:
    defaults = {
        "id": uuid4(), "stationId": "S", "driverId": "D", "callbackUrl": "https://x.example/", "createdAt": NOW,
        "client": "app",
    }  # fmt: skip
    return await insert(database, "charging_session_requests", defaults | changes)


async def test_a_session_is_read_as_the_contract_shows_it(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Money and energy as decimal strings, times in UTC, null for what is not known."""
    session_id = await insert_session(
        database, chargerId="CHARGER-001", status="COMPLETED", phase="COMPLETED", metadata='{"bay": [1, "ü"]}',
        finalCost=12, currency="EUR", startedAt=NOW, endedAt=NOW + timedelta(hours=1), reason="DRIVER",
    )  # fmt: skip
    answer = await client.get(f"/api/v1/session/{session_id}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "sessionId": str(session_id), "chargerId": "CHARGER-001", "connectorId": None, "stationId": None,
        "driverId": None, "requestId": None, "status": "COMPLETED", "phase": "COMPLETED", "reason": "DRIVER",
        "finalCost": "12.00", "currency": "EUR", "energyKwh": None, "metadata": {"bay": [1, "ü"]},
        "startedAt": "2026-05-04T12:00:00.123Z", "endedAt": "2026-05-04T13:00:00.123Z",
        "createdAt": "2026-05-04T12:00:00.123Z", "updatedAt": "2026-05-04T12:00:00.123Z", "payment": None,
    }  # fmt: skip


async def test_a_request_is_read_with_its_decision(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    """Null while pending; the callback URL is nobody's business."""
    session_id = uuid4()
    pending = await insert_request(database)
    allowed = await insert_request(database, decision="allowed", sessionId=session_id, decidedAt=NOW)
    first = (await client.get(f"/api/charging-session-requests/{pending}")).json()
    second = (await client.get(f"/api/charging-session-requests/{allowed}")).json()
    assert first == {
        "requestId": str(pending), "stationId": "S", "driverId": "D", "connectorId": None, "decision": None,
        "reason": None, "sessionId": None, "decidedAt": None, "createdAt": "2026-05-04T12:00:00.123Z",
    }  # fmt: skip
    assert (second["decision"], second["sessionId"]) == ("allowed", str(session_id))


@pytest.mark.parametrize("path", ["/api/v1/session", "/api/charging-session-requests"])
async def test_what_nobody_knows_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    """404, also for what was acknowledged a moment ago and is not applied yet."""
    problem(await client.get(f"{path}/{uuid4()}"), 404, "not-found")


async def test_pages_hold_every_session_once_newest_first(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Also where many were created in the same microsecond, and while new ones come in between the pages."""
    times = [NOW + timedelta(microseconds=number // 4) for number in range(23)]
    inserted = {await insert_session(database, createdAt=created_at): created_at for created_at in times}
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 5}
    while True:
        page = (await client.get("/api/v1/session", params=query)).json()
        seen += [item["sessionId"] for item in page["items"]]
        await insert_session(database, createdAt=NOW + timedelta(days=1))
        if page["nextCursor"] is None:
            break
        assert len(page["items"]) == 5
        query["cursor"] = page["nextCursor"]
    assert seen == [str(each) for each in sorted(inserted, key=lambda each: (inserted[each], each), reverse=True)]


async def test_a_page_holds_twenty_sessions_unless_told_otherwise(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Default 20; a page that ends the list has no cursor."""
    for _ in range(21):
        await insert_session(database)
    first = (await client.get("/api/v1/session")).json()
    everything = (await client.get("/api/v1/session?limit=21")).json()
    assert (len(first["items"]), len(everything["items"])) == (20, 21)
    assert first["nextCursor"] is not None
    assert everything["nextCursor"] is None


async def test_filters_narrow_the_list_together(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    """Charger, driver and status; what matches nothing is an empty page."""
    done = {"status": "COMPLETED", "phase": "COMPLETED"}
    wanted = await insert_session(database, chargerId="C", driverId="D ü", **done)
    await insert_session(database, chargerId="C", driverId="D ü")
    await insert_session(database, chargerId="C", driverId="E", **done)
    await insert_session(database, driverId="D ü", **done)

    async def found(**query: str) -> list[str]:
        return [item["sessionId"] for item in (await client.get("/api/v1/session", params=query)).json()["items"]]

    assert await found(chargerId="C", driverId="D ü", status="COMPLETED") == [str(wanted)]
    assert len(await found(chargerId="C")) == 3
    assert len(await found(status="COMPLETED")) == 3
    assert await found(status="CANCELLED") == []


async def test_a_time_range_has_its_beginning_and_not_its_end(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """By the time of creation, in any offset; with the other filters, and across pages."""
    times = [NOW + timedelta(hours=number) for number in range(4)]
    ids = [
        str(await insert_session(database, createdAt=created_at, chargerId=f"C-{created_at}")) for created_at in times
    ]

    async def found(**query: str) -> list[str]:
        return [item["sessionId"] for item in (await client.get("/api/v1/session", params=query)).json()["items"]]

    second, last = times[1].isoformat(), times[3].astimezone(timezone(timedelta(hours=2))).isoformat()
    assert await found(createdFrom=second, createdTo=last) == [ids[2], ids[1]]
    assert await found(createdFrom=last) == [ids[3]]
    assert await found(createdTo=second) == [ids[0]]
    assert await found(createdFrom=second, chargerId=f"C-{times[0]}") == []
    page = (await client.get("/api/v1/session", params={"createdFrom": second, "limit": "2"})).json()
    assert [item["sessionId"] for item in page["items"]] == [ids[3], ids[2]]
    assert await found(createdFrom=second, cursor=page["nextCursor"]) == [ids[1]]


@pytest.mark.parametrize("value", ["yesterday", "2026-05-04", "2026-05-04T12:00:00", "5", ""])
async def test_a_time_without_a_date_or_zone_is_refused(client: httpx.AsyncClient, value: str) -> None:
    answer = await client.get("/api/v1/session", params={"createdFrom": value})
    assert problem(answer, 400, "invalid-parameter")["errors"][0]["parameter"] == "createdFrom"


async def test_a_running_session_shows_its_cost_so_far(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    """Alone and in the list, from the frozen tariff and the meter; its export has no record yet."""
    tariff = tariff_json(Tariff(name="T", currency="EUR", flat=Decimal(1), per_kwh=Decimal("0.5")))
    meter = Meter(lowest_wh=Decimal(0), highest_wh=Decimal(3000), last_at=NOW, energy_wh=Decimal(3000))
    session_id = await insert_session(
        database, tariff=json.dumps(tariff), meter=json.dumps(meter_json(meter)), energyKwh=3, startedAt=NOW,
        currency="EUR",
    )  # fmt: skip
    read = (await client.get(f"/api/v1/session/{session_id}")).json()
    (listed,) = (await client.get("/api/v1/session")).json()["items"]
    assert (read["finalCost"], read["currency"]) == ("2.50", "EUR")
    assert listed == read
    assert "tariff" not in read
    exported = (await client.get(f"/api/v1/session/{session_id}/cdr")).json()
    assert exported["cdr"] is None
    assert exported["session"]["total_cost"] == {"excl_vat": 2.5, "incl_vat": 2.5}


async def test_a_completed_session_has_a_charge_detail_record(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Its total is the stored cost; another client's is not found."""
    session_id = await insert_session(
        database, status="COMPLETED", phase="COMPLETED", finalCost=4.5, currency="EUR", energyKwh=3, startedAt=NOW,
        endedAt=NOW + timedelta(hours=1), needsReview=True, reviewReason="STALE",
    )  # fmt: skip
    cdr = (await client.get(f"/api/v1/session/{session_id}/cdr")).json()["cdr"]
    assert (cdr["id"], cdr["total_cost"]["incl_vat"], cdr["total_energy"]) == (str(session_id), 4.5, 3.0)
    assert (cdr["country_code"], cdr["party_id"]) == ("NL", "VOL")
    assert cdr["remark"] == "Needs review: STALE"
    problem(await client.get(f"/api/v1/session/{uuid4()}/cdr"), 404, "not-found")
    headers = {"X-API-Key": "other-key"}
    problem(await client.get(f"/api/v1/session/{session_id}/cdr", headers=headers), 404, "not-found")


async def test_stations_and_tariffs_are_read_as_they_are_kept(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Decimals as strings, times in UTC; nobody but an operator."""
    await database.execute("INSERT INTO stations VALUES ('S/1', false, 'Maintenance', $1)", NOW)
    await database.execute(
        """INSERT INTO tariffs (name, currency, "perKwh", "stepWh", "chargerIds", "updatedAt")
           VALUES ('default', 'EUR', 0.450, 100, '["C"]', $1)""", NOW,
    )  # fmt: skip
    station = await client.get("/api/v1/stations/S%2F1")
    assert station.json() == {
        "stationId": "S/1", "open": False, "reason": "Maintenance", "updatedAt": "2026-05-04T12:00:00.123Z",
    }  # fmt: skip
    assert (await client.get("/api/v1/tariffs/default")).json() == {
        "name": "default", "currency": "EUR", "flat": None, "perKwh": "0.450", "perHour": None, "perIdleHour": None,
        "stepWh": 100, "stepSeconds": None, "minimum": None, "maximum": None, "taxPercent": None, "chargerIds": ["C"],
        "updatedAt": "2026-05-04T12:00:00.123Z",
    }  # fmt: skip
    for path in ("drivers", "stations", "tariffs"):
        problem(await client.get(f"/api/v1/{path}/nowhere"), 404, "not-found")
        problem(await client.get(f"/api/v1/{path}/x", headers={"X-API-Key": "app-key"}), 403, "forbidden")


async def test_a_client_sees_its_own_and_an_operator_everything(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Another client's session is not known, in the list as by its id; so is one that no client started."""
    session_id, request_id = await insert_session(database, client="app"), await insert_request(database, client="app")
    await insert_session(database, client=None)
    for key, status, count in (("app-key", 200, 1), ("other-key", 404, 0), ("boss-key", 200, 2)):
        headers = {"X-API-Key": key}
        session = await client.get(f"/api/v1/session/{session_id}", headers=headers)
        request = await client.get(f"/api/charging-session-requests/{request_id}", headers=headers)
        listed = await client.get("/api/v1/session", headers=headers)
        assert (session.status_code, request.status_code) == (status, status)
        assert len(listed.json()["items"]) == count


async def test_an_unprovisioned_database_names_the_mending_command(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """A missing table is a 503 until provisioning has run."""
    await database.execute("ALTER TABLE charging_sessions RENAME TO elsewhere")
    try:
        answer = await client.get("/api/v1/session")
    finally:
        await database.execute("ALTER TABLE elsewhere RENAME TO charging_sessions")
    assert "python -m ops provision" in problem(answer, 503, "not-provisioned")["detail"]
    assert (await client.get("/api/v1/session")).status_code == 200

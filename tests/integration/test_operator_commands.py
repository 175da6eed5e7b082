"""`python -m ops drivers import`, `sessions export` and `requests list` as typed, on a real database."""

import asyncio
import csv
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from ops.local_stack.processes import Processes
from ops.sessions_export import COLUMNS
from tests.servers import REPOSITORY, House
from tests.wire import Wire

HEADER = "driverId,status,validFrom,validUntil,stations,reason\n"
# Larger than a chunk of the import, small enough for every run of the tests.
MANY_DRIVERS = 12_000
MANY_SESSIONS = 30_000
TIMEOUT_S = 60


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def ops(house: House | None, *arguments: str | Path, url: str = "") -> Ran:
    """Run the command and return what it said."""
    environment = {**os.environ, "DATABASE_URL": house.database_url if house else url}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", *(str(argument) for argument in arguments),
        cwd=REPOSITORY, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await child.communicate()
    assert child.returncode is not None
    return Ran(child.returncode, out.decode(), err.decode())


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("TRUNCATE drivers, stations, charging_sessions, charging_session_requests")
    yield connection
    await connection.close()


def file_of(folder: Path, *rows: str) -> Path:
    path = folder / "drivers.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_imported_drivers_replace_those_of_the_file_and_no_others(
    house: House, database: asyncpg.Connection, tmp_path: Path
) -> None:
    first = await ops(house, "drivers", "import", file_of(tmp_path, "anna,BLOCKED,,,,lost card", "ben,ALLOWED,,,,"))
    assert (first.code, first.err) == (0, "2 drivers imported: 2 new, 0 replaced.\n")
    row = "anna,ALLOWED,2026-01-01T00:00:00Z,,depot;harbour,"
    second = await ops(house, "drivers", "import", file_of(tmp_path, row, "cleo,NO_CREDIT,,,,"))
    assert (second.code, second.err) == (0, "2 drivers imported: 1 new, 1 replaced.\n")
    rows = {row["driverId"]: row for row in await database.fetch("SELECT * FROM drivers")}
    assert rows.keys() == {"anna", "ben", "cleo"}
    assert (rows["anna"]["status"], rows["anna"]["reason"]) == ("ALLOWED", None)
    assert json.loads(rows["anna"]["stations"]) == ["depot", "harbour"]
    assert (rows["ben"]["stations"], rows["ben"]["validFrom"]) == (None, None)


async def test_a_file_with_faults_imports_nothing_and_lists_them_all(
    house: House, database: asyncpg.Connection, tmp_path: Path
) -> None:
    path = file_of(tmp_path, "anna,ALLOWED,,,,", "ben,OPEN,,,,", "cleo,ALLOWED,soon,,,", "anna,ALLOWED,,,,")
    ran = await ops(house, "drivers", "import", path)
    assert ran.code == 2
    assert [line.partition(": ")[2].partition(":")[0] for line in ran.err.splitlines()[:-1]] == [
        "line 3, status",
        "line 4, validFrom",
        "line 5, driverId",
    ]
    assert ran.err.splitlines()[-1] == "3 faults; nothing was imported."
    assert await database.fetchval("SELECT count(*) FROM drivers") == 0


async def test_many_drivers_are_imported_at_once(house: House, database: asyncpg.Connection, tmp_path: Path) -> None:
    """In one transaction: all rows are of one time."""
    path = file_of(tmp_path, *(f"driver-{number},ALLOWED,,,S-{number},row {number}" for number in range(MANY_DRIVERS)))
    ran = await ops(house, "drivers", "import", path)
    assert (ran.code, ran.err) == (0, "12,000 drivers imported: 12,000 new, 0 replaced.\n")
    counted = await database.fetchrow('SELECT count(*), count(DISTINCT "updatedAt") FROM drivers')
    assert tuple(counted) == (MANY_DRIVERS, 1)


async def test_an_import_that_the_database_breaks_off_leaves_nothing(
    house: House, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """The last row of the file violates what only the database knows."""
    await database.execute("""ALTER TABLE drivers ADD CONSTRAINT unlucky CHECK (reason <> 'row 11999')""")
    try:
        path = file_of(tmp_path, *(f"d-{number},ALLOWED,,,,row {number}" for number in range(MANY_DRIVERS)))
        ran = await ops(house, "drivers", "import", path)
    finally:
        await database.execute("ALTER TABLE drivers DROP CONSTRAINT unlucky")
    assert ran.code == 1
    assert ran.err.startswith("Database: new row for relation")
    assert "Traceback" not in ran.err
    assert await database.fetchval("SELECT count(*) FROM drivers") == 0


async def test_an_imported_driver_may_charge(
    house: House, processes: Processes, wire: Wire, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """The worker reads what the import wrote, in its next batch; and the log shows what it decided."""
    await database.execute("INSERT INTO stations VALUES ('depot', true, NULL, now())")
    worker = await processes.start("session_worker", AUTHORIZATION="acl")
    assert (await ops(house, "drivers", "import", file_of(tmp_path, "anna,ALLOWED,,,depot,"))).code == 0
    ids = {}
    for driver in ("anna", "[bold]eve"):
        body = {"stationId": "depot", "driverId": driver, "callbackUrl": "https://subscriber.example/x"}
        ids[driver] = await wire.publish("session.request.v1", body)
        await wire.event(lambda data, driver=driver: data.get("requestId") == ids[driver])  # type: ignore[misc]
    assert await worker.stop() == 0

    listed = await ops(house, "requests", "list")
    assert listed.code == 0
    newest, older = (line for line in listed.out.splitlines() if "depot" in line)
    assert all(text in newest for text in (str(ids["[bold]eve"]), "[bold]eve", "invalid", "UNKNOWN_DRIVER"))
    assert all(text in older for text in (str(ids["anna"]), "anna", "allowed"))
    lines = await ops(house, "requests", "list", "--json", "--decision", "allowed", "--driver", "anna")
    (request,) = [json.loads(line) for line in lines.out.splitlines()]
    assert (request["requestId"], request["decision"], request["sessionId"]) == (ids["anna"], "allowed", ids["anna"])
    assert (await ops(house, "requests", "list", "--json", "--decision", "pending")).out == ""
    assert len((await ops(house, "requests", "list", "--json", "--limit", "1")).out.splitlines()) == 1


async def insert_session(database: asyncpg.Connection, charger: str, created: str, status: str = "COMPLETED") -> UUID:
    session_id = uuid4()
    await database.execute(
        """INSERT INTO charging_sessions (id, "chargerId", status, phase, reason, "finalCost", currency, "energyKwh",
               metadata, "createdAt", "updatedAt", sequence, "needsReview", "reviewReason")
           VALUES ($1, $2, $4::text, CASE $4::text WHEN 'IN_PROGRESS' THEN 'ACTIVE' ELSE $4::text END,
               '=1+1', 12.30, 'EUR', 8.5, '{"note": "a, \\"b\\""}', CAST($3 AS text)::timestamptz,
               now(), 2, true, 'TOO_LONG')""",
        session_id, charger, created, status,
    )  # fmt: skip
    return session_id


async def test_sessions_are_exported_as_csv(house: House, database: asyncpg.Connection, tmp_path: Path) -> None:
    """Oldest first; filtered by time (the end excluded), status and charger; formulas made text."""
    ids = [await insert_session(database, f"C-{day}", f"2026-05-0{day}T00:00:00Z") for day in (3, 1, 2)]
    running = await insert_session(database, "C-9", "2026-05-09T00:00:00Z", "IN_PROGRESS")

    async def exported(*arguments: str) -> list[dict[str, str]]:
        ran = await ops(house, "sessions", "export", *arguments)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(",".join(COLUMNS) + "\r\n")
        return list(csv.DictReader(io.StringIO(ran.out, newline="")))

    rows = await exported()
    assert [row["sessionId"] for row in rows] == [str(each) for each in (ids[1], ids[2], ids[0], running)]
    assert rows[0] == dict.fromkeys(COLUMNS, "") | {
        "sessionId": str(ids[1]), "chargerId": "C-1", "status": "COMPLETED", "phase": "COMPLETED", "reason": "'=1+1",
        "finalCost": "12.30", "currency": "EUR", "energyKwh": "8.5", "metadata": '{"note": "a, \\"b\\""}',
        "createdAt": "2026-05-01T00:00:00.000Z", "updatedAt": rows[0]["updatedAt"], "needsReview": "true",
        "reviewReason": "TOO_LONG",
    }  # fmt: skip
    between = await exported("--from", "2026-05-02", "--to", "2026-05-03T00:00:00Z")
    assert [row["chargerId"] for row in between] == ["C-2"]
    assert [row["chargerId"] for row in await exported("--status", "in_progress")] == ["C-9"]
    assert [row["chargerId"] for row in await exported("--charger", "C-3")] == ["C-3"]
    assert await exported("--charger", "nowhere") == []
    wrong = await ops(house, "sessions", "export", "--from", "soon")
    assert wrong.code == 2
    assert "must be a date or a time" in wrong.err


async def test_many_sessions_go_to_a_file_and_a_reader_may_leave_early(
    house: House, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await database.execute(
        """INSERT INTO charging_sessions (id, "chargerId", status, phase, "createdAt", "updatedAt", sequence)
           SELECT gen_random_uuid(), 'C-' || n, 'CANCELLED', 'CANCELLED', now() - n * interval '1 s', now(), 1
           FROM generate_series(1, $1::int) AS n""",
        MANY_SESSIONS,
    )
    path = tmp_path / "sessions.csv"
    assert await ops(house, "sessions", "export", "--output", path) == Ran(0, "", "")
    with path.open(newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) == MANY_SESSIONS
    assert names_in(tmp_path) == ["sessions.csv"]
    child = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m ops sessions export | head -1",
        cwd=REPOSITORY, env={**os.environ, "DATABASE_URL": house.database_url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate()
    assert (out.decode().strip(), err) == (",".join(COLUMNS), b"")


async def test_what_cannot_be_had_is_told_in_a_line(house: House, tmp_path: Path) -> None:
    """No database, no table, no setting, no file: no traceback, and no half-written file either."""
    nowhere = "postgresql://nobody:secret@127.0.0.1:1/none"
    output = tmp_path / "sessions.csv"
    away = await ops(None, "sessions", "export", "--output", output, url=nowhere)
    assert (away.code, len(away.err.splitlines())) == (1, 1)
    assert away.err.startswith("Database: ")
    assert names_in(tmp_path) == []
    bare = house.database_url.rpartition("/")[0] + "/postgres"
    missing = await ops(None, "requests", "list", url=bare)
    assert missing.code == 1
    assert missing.err.endswith("run: python -m ops provision\n")
    assert await ops(None, "requests", "list") == Ran(2, "", "DATABASE_URL: is required\n")
    absent = await ops(house, "drivers", "import", tmp_path / "absent.csv")
    assert (absent.code, absent.err) == (2, f"{tmp_path / 'absent.csv'}: is no file\n")
    no_folder = await ops(house, "sessions", "export", "--output", tmp_path / "absent" / "x.csv")
    assert (no_folder.code, len(no_folder.err.splitlines())) == (2, 1)

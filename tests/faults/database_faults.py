"""The database: killed, restarted, its connections ended or used up, read-only, locked, silent after a COMMIT."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import asyncpg

from ops.local_stack import Server
from ops.local_stack.processes import Name
from tests.faults.crew import NeverFired, cpu_s
from tests.faults.liveness import edges
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

STORMS = 8
STORM_EVERY_S = 0.25
USED_UP_FOR_S = 3.0
READ_ONLY_FOR_S = 3.0
LOCKED_FOR_S = 3.0
# Enough for a batch of events, or of commands, to come into every worker's hands.
EVENTS_COME_S = 0.8
# It waits for 20 s; more load would only be more to catch up with.
STUCK_RATE = 12.0
# Processes of the server report what they count about a second late.
COUNTED_WITHIN_S = 1.2
POLL_S = 0.1
OUTAGE_S = 12.0
OUTAGE_RATE = 15.0
LONG_OUTAGE_S = 150.0
# A worker that waits for the database does nothing; a busy loop would take a whole core.
CPU_MOST = 0.35
COMMITS = 3

TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE '%worker'"""
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


async def killed(site: Site, _: Load) -> str:
    return await _gone(site, site.servers.kill)


async def restarted(site: Site, _: Load) -> str:
    return await _gone(site, site.servers.stop)


async def _gone(site: Site, end: Callable[[Server], None]) -> str:
    began = time.monotonic()
    await asyncio.to_thread(end, Server.POSTGRES)
    try:
        await asyncpg.connect(site.database.url, timeout=2, ssl=False)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        await asyncio.to_thread(site.servers.start, Server.POSTGRES)
        return f"away for {time.monotonic() - began:.1f} s"
    raise NeverFired("the database still answers")


async def terminated(site: Site, _: Load) -> str:
    count = 0
    for _storm in range(STORMS):
        count += await site.database.value(TERMINATE)
        await asyncio.sleep(STORM_EVERY_S)
    if not count:
        raise NeverFired("no connection was ended")
    return f"{count} connections ended"


async def used_up(site: Site, _: Load) -> str:
    """Others take every connection, and the workers lose theirs again and again."""
    held: list[asyncpg.Connection] = []
    ends_at = time.monotonic() + USED_UP_FOR_S
    refused = 0
    try:
        while time.monotonic() < ends_at:
            refused += await _take_all(site, held)
            await site.database.value(TERMINATE)
            refused += await _take_all(site, held)
            await asyncio.sleep(0.2)
    finally:
        for connection in held:
            connection.terminate()
    if not refused:
        raise NeverFired(f"{len(held)} connections did not use them up")
    return f"{len(held)} connections held, none left"


async def _take_all(site: Site, held: list[asyncpg.Connection]) -> int:
    url = site.logins[Name.GATEWAY]["DATABASE_URL"]
    while True:
        opened = await asyncio.gather(
            *(asyncpg.connect(url, timeout=5, ssl=False) for _ in range(10)), return_exceptions=True
        )
        held += [connection for connection in opened if not isinstance(connection, BaseException)]
        if refused := sum(isinstance(error, asyncpg.TooManyConnectionsError) for error in opened):
            return refused


async def read_only(site: Site, _: Load) -> str:
    name = site.house.name
    connection = await site.database.connect()
    try:
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        ended = await connection.fetchval(TERMINATE)
        await asyncio.sleep(READ_ONLY_FOR_S)
        state = await site.database.value("SHOW default_transaction_read_only")
        await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await connection.fetchval(TERMINATE)
    finally:
        await connection.close()
    if state != "on" or not ended:
        raise NeverFired(f"read only was {state}, {ended} connections ended")
    return f"{ended} connections became read-only"


async def locked(site: Site, _: Load) -> str:
    return f"{await _lock('inbox', site, LOCKED_FOR_S)} waited for it"


async def _lock(table: str, site: Site, seconds: float) -> int:
    connection = await site.database.connect()
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(seconds)
            waiting: int = await connection.fetchval(WAITING)
    finally:
        await connection.close()
    if not waiting:
        raise NeverFired("nobody waited for the lock")
    return waiting


async def stuck(site: Site, _: Load) -> str:
    """Locks for longer than a batch may take, of events first, then of commands, from which the events come."""
    tables = ("callback_deliveries", "inbox")
    connections = [await site.database.connect() for _table in tables]

    async def lock() -> None:
        for connection, table in zip(connections, tables, strict=True):
            await connection.execute("BEGIN")
            # Readiness, which reads, is not stuck itself: the batches shall tell.
            await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            await asyncio.sleep(EVENTS_COME_S)

    async def unlock() -> None:
        for connection in connections:
            await connection.close()

    return await edges(site, (Name.SESSION_WORKER, Name.CALLBACK_WORKER), lock, unlock)


async def deadlocked(site: Site, _: Load) -> str:
    """We hold what a worker's transaction needs last, and then ask for what it took first: it is the victim."""
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await site.database.value(query)
    for _try in range(5):
        connection = await site.database.connect()
        try:
            with suppress(asyncpg.DeadlockDetectedError):
                async with connection.transaction():
                    await connection.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
                    await asyncio.sleep(0.4)
                    await connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
        finally:
            await connection.close()
        deadline = time.monotonic() + COUNTED_WITHIN_S
        while (count := await site.database.value(query) - before) == 0 and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        if count:
            return f"{count} deadlocks"
    raise NeverFired("no deadlock came about")


def ambiguous_commit(name: Name) -> Fault:
    async def inject(site: Site, _: Load) -> str:
        link = site.links[name, Server.POSTGRES]
        before = link.touched
        link.cut_answer_to(b"COMMIT")
        async with asyncio.timeout(15):
            while link.touched - before < COMMITS:
                await asyncio.sleep(0.05)
        link.restore()
        return f"{link.touched - before} answers to COMMIT cut off"

    return Fault(f"{name}: commit without an answer", inject)


def outage(seconds: float, *, is_long: bool) -> Fault:
    """No dead letters, no busy loop, readiness tells (G9), the gateway acknowledges as ever, and all is caught up."""

    async def inject(site: Site, load: Load) -> str:
        workers = site.crew.members[Name.SESSION_WORKER] + site.crew.members[Name.CALLBACK_WORKER]
        used, refused, began = [cpu_s(worker) for worker in workers], load.ledger.answers().total(), time.monotonic()
        shares: list[float] = []

        async def end() -> None:
            await asyncio.to_thread(site.servers.stop, Server.POSTGRES)

        async def start() -> None:
            nonlocal refused
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
            took_s = time.monotonic() - began
            shares.extend((cpu_s(worker) - was) / took_s for worker, was in zip(workers, used, strict=True))
            refused = load.ledger.answers().total() - refused
            await asyncio.to_thread(site.servers.start, Server.POSTGRES)

        told = await edges(site, (Name.SESSION_WORKER, Name.CALLBACK_WORKER), end, start)
        assert max(shares) < CPU_MOST, f"a worker took {max(shares):.0%} of a core while the database was away"
        assert refused == 0, f"{refused} calls failed although the gateway needs no database"
        return f"CPU {max(shares):.0%} at most; {told}"

    return Fault(
        f"database away for {seconds:.0f} s", inject, is_alone=is_long, is_long=is_long, rate=OUTAGE_RATE,
        inject_most_s=seconds + 120,
    )  # fmt: skip


FAULTS = (
    Fault("database kill -9", killed),
    Fault("database restart", restarted),
    Fault("database connections terminated", terminated),
    Fault("database connections used up", used_up),
    Fault("database read-only", read_only),
    ambiguous_commit(Name.SESSION_WORKER),
    ambiguous_commit(Name.CALLBACK_WORKER),
    Fault("database table locked", locked),
    Fault("database deadlock", deadlocked),
    Fault("database locks stick every batch", stuck, rate=STUCK_RATE),
    outage(OUTAGE_S, is_long=False),
    outage(LONG_OUTAGE_S, is_long=True),
)

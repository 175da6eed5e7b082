"""The purge as it runs: in the workers, beside their work; as `python -m ops maintain`; through faults, to its end."""

import asyncio
import os
import pty
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from ops.local_stack.processes import Name, Process, Processes
from shared.retention import batches, caretaker
from shared.retention.aged import callback_purges
from shared.retention.caretaker import Caretaker
from shared.retention.sessions import session_purges
from shared.retention.settings import CallbackRetention, SessionRetention
from shared.topology import SESSION_COMMANDS, dead_letter_queue
from tests.past import TABLES, Past
from tests.servers import REPOSITORY, House, with_logins
from tests.wire import Wire, eventually
from tests.wrong_clock import MakeClock

TIMEOUT_S = 60
OLD_MESSAGES = 20_000
SESSIONS = partial(session_purges, SessionRetention())
CALLBACKS = partial(callback_purges, CallbackRetention())
# What the workers do within an hour, at once and all the time.
EAGER = """
from shared.retention import caretaker
caretaker.FIRST_WITHIN_S = (0.0, 0.0)
caretaker.EVERY_S = 0.1
"""
# A purge that rests so many times as long as each batch took.
RESTING = """
from shared.retention import batches
batches.work_off.__kwdefaults__["rest"] = {rest}
"""


@pytest.fixture
def eager(tmp_path: Path) -> dict[str, Any]:
    """The environment in which a worker's purge does not wait for its hour."""
    (tmp_path / "sitecustomize.py").write_text(EAGER)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def maintain(
    database_url: str, *arguments: str, stdin: Any = asyncio.subprocess.DEVNULL, **environment: str
) -> Ran:
    """Run the command and return what it said."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "maintain", *arguments,
        cwd=REPOSITORY, env={**os.environ, "DATABASE_URL": database_url, **environment},
        stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await child.communicate()
    assert child.returncode is not None
    return Ran(child.returncode, out.decode(), err.decode())


def caretaker_of(
    url: str, purges: Callable[[datetime], Sequence[batches.Purge]], *, has_leapt: bool = False
) -> Caretaker:
    return Caretaker(url, name="test", purges=purges, has_leapt=lambda: has_leapt)


def table(ran: Ran) -> dict[str, int]:
    """The rows of the summary."""
    lines = [line.split() for line in ran.out.splitlines()[1:]]
    return {name: int(count.replace(",", "")) for name, count in lines if count != "0"}


async def is_ready(process: Process) -> bool:
    async with httpx.AsyncClient(base_url=process.url, timeout=30, trust_env=False) as client:
        return (await client.get("/readyz")).status_code == httpx.codes.OK


async def inbox_rows(past: Past) -> int:
    return (await past.counts()).get("inbox", 0)


async def test_maintain_counts_then_purges_what_it_counted(house: House, past: Past) -> None:
    """The dry run deletes nothing, and names every table with the count that the run then has."""
    await past.paid_session(5_000)
    await past.request(100)
    await past.delivery(100)
    await past.callback_message(40)
    await past.many_messages(40, 2_500)
    await past.paid_session(100)
    before = await past.counts()
    counted = await maintain(house.database_url, "--dry-run")
    assert (counted.code, await past.counts()) == (0, before)
    purged = await maintain(house.database_url)
    after = await past.counts()
    assert purged.code == 0
    assert table(purged) == {table: left for table, count in before.items() if (left := count - after.get(table, 0))}
    assert table(counted) == table(purged)


async def test_maintain_names_every_table_and_none_where_nothing_was_old(house: House, past: Past) -> None:
    """One old row: the other tables stand there with 0. No row: a sentence."""
    await past.callback_message(40)
    for arguments in (["--dry-run"], ["--yes"]):
        said = (await maintain(house.database_url, *arguments)).out
        assert {line.split()[0] for line in said.splitlines()[1:]} == {*TABLES} - {"outbox"}
    for arguments in (["--dry-run"], ["--yes"]):
        assert (await maintain(house.database_url, *arguments)).out == "Nothing was old enough.\n"


async def test_maintain_says_for_how_long_things_are_kept_and_names_every_bad_setting(house: House) -> None:
    said = (await maintain(house.database_url, "--dry-run", SESSION_RETENTION_DAYS="0")).err
    assert "messages 30 days" in said
    assert "sessions for ever" in said
    bad = await maintain(house.database_url, "--yes", INBOX_RETENTION_DAYS="3", PAYMENT_RETENTION_DAYS="soon")
    assert (bad.code, bad.out) == (2, "")
    assert {line.split(":")[0] for line in bad.err.splitlines()} == {"INBOX_RETENTION_DAYS", "PAYMENT_RETENTION_DAYS"}


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, {"inbox": 1}), ("", 1, {"inbox": 1}), ("y", 0, {})])
async def test_maintain_asks_on_a_terminal(
    house: House, past: Past, answer: str, code: int, left: dict[str, int]
) -> None:
    """Behind what it would go by; no answer is none."""
    await past.message(40)
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    ran = await maintain(house.database_url, stdin=terminal)
    for each in (keyboard, terminal):
        os.close(each)
    assert (ran.code, await past.counts()) == (code, left)
    assert ran.err.index("Kept: messages 30 days") < ran.err.index("Purge what is older, for ever? [y/N]")


async def test_maintain_tells_what_it_could_not_do_and_does_the_rest(house: House, past: Past) -> None:
    """A table that somebody has locked, or no database: status 1, a line each, no traceback."""
    await past.many_messages(40, 10)
    await past.delivery(100)
    async with past.connection.transaction():
        await past.connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
        ran = await maintain(house.database_url, "--yes")
    assert ran.code == 1
    assert table(ran) == {"callback_deliveries": 1}
    assert "inbox: LockNotAvailableError 55P03" in ran.err
    away = await maintain("postgresql://nobody:secret@127.0.0.1:1/none", "--yes")
    assert away.code == 1
    assert "Database: " in away.err
    assert away.out == ""
    assert "Traceback" not in ran.err + away.err


async def test_maintain_with_a_workers_login_says_which_login_it_needs(house: House, past: Past) -> None:
    """Provisioning would not help: no worker may delete in the other one's tables."""
    login = with_logins(house)[Name.CALLBACK_WORKER]["DATABASE_URL"]
    purged, counted = await maintain(login, "--yes"), await maintain(login, "--dry-run")
    needs = "it needs a login that may {} in every table, the owner's for example"
    assert f"inbox: permission denied for table inbox: {needs.format('DELETE')}" in purged.err.splitlines()
    assert f"Database: permission denied for table inbox: {needs.format('SELECT')}" in counted.err.splitlines()
    assert (purged.code, counted.code, purged.out + counted.out) == (1, 1, "")
    assert "provision" not in purged.err + counted.err


async def test_the_least_rights_of_each_worker_are_enough_for_its_purge(house: House, past: Past) -> None:
    """And together they purge all that the operator's do."""
    urls = with_logins(house)
    await past.paid_session(5_000)
    await past.refused_session(100)
    await past.request(100)
    await past.delivery(100)
    await past.callback_message(40)
    await past.message(40)
    before = await past.counts()
    turns = (
        caretaker_of(urls[Name.SESSION_WORKER]["DATABASE_URL"], SESSIONS),
        caretaker_of(urls[Name.CALLBACK_WORKER]["DATABASE_URL"], CALLBACKS),
    )
    gone = [await turn.run_once() for turn in turns]
    assert {table: count for rows in gone for table, count in rows.items() if count} == before
    assert await past.counts() == {}


async def test_both_workers_purge_by_themselves(processes: Processes, past: Past, eager: dict[str, Any]) -> None:
    """With their own logins and settings, ready all the while; what went is in the log and in the metrics."""
    kept = await past.session(100, finalCost=1)
    await past.session(40)
    await past.delivery(20)
    await past.message(40)
    workers = [
        await processes.start("session_worker", SESSION_RETENTION_DAYS="35", **eager),
        await processes.start("callback_worker", CALLBACK_LOG_RETENTION_DAYS="15", **eager),
    ]

    async def purged() -> bool:
        return await past.counts() == {"charging_sessions": 1}

    await eventually(purged)
    assert await past.ids("charging_sessions") == {kept}
    for worker, told in zip(workers, ("charging_sessions", "callback_deliveries"), strict=True):
        assert await is_ready(worker)
        async with httpx.AsyncClient(base_url=worker.url, timeout=30, trust_env=False) as client:
            metrics = (await client.get("/metrics")).text
        assert f'voltline_purged_rows_total{{table="{told}"}} 1.0' in metrics
        assert "voltline_last_purge_timestamp_seconds 1" in metrics
        assert '"event": "purged"' in worker.log_tail()
        assert await worker.stop() == 0


async def test_a_purge_that_fails_harms_nothing_and_is_tried_again(
    house: House, processes: Processes, past: Past, wire: Wire, eager: dict[str, Any]
) -> None:
    """A right is missing: the worker stays ready and applies commands, and purges once it has the right."""
    worker = await processes.start("session_worker", **eager)
    login = await past.connection.fetchval(
        "SELECT usename FROM pg_stat_activity WHERE application_name = 'session_worker' AND datname = $1", house.name
    )
    await past.connection.execute(f"REVOKE DELETE ON inbox FROM {login}")
    await past.message(40)

    async def failed() -> bool:
        return "purge_failed" in worker.log_tail()

    await eventually(failed)
    assert await is_ready(worker)
    session_id = await wire.publish("session.start.v1", {"chargerId": "C-1"})
    await wire.event(lambda data: data["sessionId"] == session_id)
    await past.connection.execute(f"GRANT DELETE ON inbox TO {login}")

    async def purged() -> bool:
        return await inbox_rows(past) == 1

    await eventually(purged)
    assert await worker.stop() == 0


@pytest.mark.parametrize("step", ["+3d", "-3d"])
async def test_nothing_is_purged_by_a_clock_that_another_one_contradicts(
    house: House, processes: Processes, past: Past, eager: dict[str, Any], wrong_clock: MakeClock, step: str
) -> None:
    """Which of them is wrong, nobody knows; if it is the database's, all that is not owed would go at once."""
    await past.message(40)
    clock = wrong_clock(step).environment
    worker = await processes.start("session_worker", port=None, **eager, **clock)

    async def skipped() -> bool:
        return "purge_skipped" in worker.log_tail()

    await eventually(skipped)
    assert "the database's clock and this host's are" in worker.log_tail()
    for arguments in (["--yes"], ["--dry-run"]):
        ran = await maintain(house.database_url, *arguments, **clock)
        assert (ran.code, ran.out) == (1, "")
        assert "days apart; put right the wrong one, or go by the database's with --force" in ran.err
    assert await worker.stop() == 0
    assert await past.counts() == {"inbox": 1}
    assert (await maintain(house.database_url, "--yes", "--force", **clock)).code == 0
    assert await past.counts() == {}


async def test_nothing_is_purged_while_the_databases_clock_has_just_leapt(house: House, past: Past) -> None:
    """The own one may have leapt with it, where both run on one host."""
    await past.message(40)
    assert await caretaker_of(house.database_url, SESSIONS, has_leapt=True).run_once() == {}
    assert await past.counts() == {"inbox": 1}
    assert await caretaker_of(house.database_url, SESSIONS).run_once() == {"inbox": 1}


async def test_a_database_that_is_away_does_not_end_the_purge(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on to try, turn after turn, whatever is raised: a cancellation that nobody asked for, too."""
    monkeypatch.setattr(caretaker, "FIRST_WITHIN_S", (0.0, 0.0))
    monkeypatch.setattr(caretaker, "EVERY_S", 0.0)
    turns = 0

    def purges(_: object) -> list[batches.Purge]:
        raise AssertionError("nobody has told the time")

    class Counting(Caretaker):
        async def run_once(self) -> dict[str, int]:
            nonlocal turns
            turns += 1
            if turns == 2:
                raise asyncio.CancelledError("by a library")
            return dict(await super().run_once())

    url = "postgresql://nobody:secret@127.0.0.1:1/none"
    purging = asyncio.create_task(Counting(url, name="test", purges=purges, has_leapt=lambda: False).run())

    async def tried() -> bool:
        return turns > 3

    await eventually(tried)
    assert not purging.done()
    purging.cancel()
    await asyncio.wait([purging])


@pytest.mark.parametrize("rest", [0, batches.REST, 400], ids=["in a batch", "as shipped", "between two"])
async def test_sigterm_in_the_middle_of_a_purge_ends_the_worker_at_once(
    processes: Processes, past: Past, eager: dict[str, Any], tmp_path: Path, rest: float
) -> None:
    """Nothing waits for the rest of a million rows; what is left is there for the next turn."""
    (tmp_path / "sitecustomize.py").write_text(EAGER + RESTING.format(rest=rest))
    await past.many_messages(40, OLD_MESSAGES)
    worker = await processes.start("session_worker", **eager)

    async def begun() -> bool:
        return await inbox_rows(past) < OLD_MESSAGES

    await eventually(begun)
    assert await worker.stop() == 0
    # One that hardly rests may be over before the signal comes.
    assert await inbox_rows(past) > 0 or rest < 400
    log = worker.log_tail()
    assert "process_drained" in log
    assert "Traceback" not in log


async def test_two_maintains_beside_a_worker_that_purges_lose_and_refuse_nothing(
    house: House, processes: Processes, past: Past, wire: Wire, eager: dict[str, Any]
) -> None:
    """Commands flow while twenty thousand old rows go: each has its one outcome, and none is a dead letter."""
    await past.many_messages(40, OLD_MESSAGES)
    worker = await processes.start("session_worker", **eager)
    running = [asyncio.create_task(maintain(house.database_url, "--yes")) for _ in range(2)]
    sent: list[str] = []
    while not all(task.done() for task in running) or len(sent) < 100:
        session_id = await wire.publish("session.start.v1", {"chargerId": f"C-{len(sent)}"})
        await wire.publish("session.stop.v1", {"sessionId": session_id})
        sent.append(str(session_id))
    ran = [task.result() for task in running]
    assert [each.code for each in ran] == [0, 0], ran
    events = await wire.events(lambda data: data["sessionId"] in sent, count=2 * len(sent), timeout_s=30)
    assert {event["type"] for event in events} == {"session.started", "session.completed"}
    assert len(events) == 2 * len(sent)
    outcomes = await past.connection.fetch("""SELECT "sessionId", outcome FROM inbox""")
    assert sorted(row["sessionId"] for row in outcomes) == sorted(UUID(each) for each in sent * 2)
    assert {row["outcome"] for row in outcomes} == {"APPLIED"}
    assert await wire.depth(dead_letter_queue(SESSION_COMMANDS)) == 0
    assert await worker.stop() == 0

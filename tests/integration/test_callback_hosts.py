"""Breakers in Postgres: what several workers learn of a host adds up, and one of them at a time finds out.

Transaction by transaction, without a worker around them.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.breaker import FAILURES_AT_ONCE, OPEN_FIRST_S, WINDOW_S
from callback_worker.claims import CLAIM, claim_due, parameters_of
from callback_worker.delivery import Attempt, Outcome
from callback_worker.hosts import UNPROBED_S, Hosts, release_probes
from callback_worker.patience import Patience
from callback_worker.store import give_back
from callback_worker.upkeep import EXPIRED_MOST, Upkeep
from shared.database import create_engine
from tests.deliveries import LEASE, NOW, claim, claimed, insert, insert_backlog, note, row
from tests.servers import House
from tests.wire import eventually

DEAD = "dead.example:443"
# The breaker opens at NOW, for a second at most.
PROBE_AT = NOW + timedelta(seconds=OPEN_FIRST_S)


@pytest.fixture
async def engine(house: House, database: asyncpg.Connection) -> AsyncIterator[AsyncEngine]:
    """Empty tables."""
    await database.execute("DELETE FROM callback_deliveries")
    await database.execute("DELETE FROM callback_hosts")
    made = create_engine(house.database_url, name="test", pool_size=3)
    yield made
    await made.dispose()


def attempts(count: int, destination: str = DEAD) -> list[Attempt]:
    """Attempts as a worker has had them in hand; the hosts' rows know nothing of their deliveries."""
    return [
        Attempt(
            callback_id=uuid4(), event_id=uuid4(), number=1, url="http://x/", destination=destination, body="{}",
            expires_at=NOW + timedelta(days=1), leased_until=NOW + LEASE,
        )
        for _ in range(count)
    ]  # fmt: skip


async def opened(engine: AsyncEngine, *rows: dict[str, Any]) -> Hosts:
    """A worker's view after it has seen a backlog fail at once; then the rows are due."""
    hosts = Hosts()
    await note(engine, hosts, attempts(FAILURES_AT_ONCE), Outcome.CONNECTION)
    await insert(engine, *rows)
    return hosts


async def host_row(engine: AsyncEngine) -> Any:
    async with engine.begin() as tx:
        return (await tx.execute(text("SELECT * FROM callback_hosts"))).one_or_none()


async def refreshed(engine: AsyncEngine, hosts: Hosts, now: datetime) -> Hosts:
    async with engine.begin() as tx:
        await hosts.refresh(tx, now)
    return hosts


async def test_what_two_workers_see_of_a_host_opens_its_breaker_for_both(engine: AsyncEngine) -> None:
    """Neither has seen enough alone; the other one knows after its next look."""
    first, second = Hosts(), Hosts()
    await note(engine, first, attempts(FAILURES_AT_ONCE // 2), Outcome.SERVER_ERROR)
    assert first.open_until(DEAD) is None
    await note(engine, second, attempts(FAILURES_AT_ONCE // 2), Outcome.TIMEOUT_RESPONSE)
    until = second.open_until(DEAD)
    assert until is not None
    assert NOW < until <= PROBE_AT
    assert (await refreshed(engine, first, NOW)).open_until(DEAD) == until


async def test_an_answer_that_another_worker_saw_ends_the_streak(engine: AsyncEngine) -> None:
    """Every result counts once, wherever it was seen."""
    first, second = Hosts(), Hosts()
    await note(engine, first, attempts(FAILURES_AT_ONCE - 1), Outcome.TLS)
    await refreshed(engine, second, NOW)
    await note(engine, second, attempts(1), Outcome.REFUSED_STATUS)
    await note(engine, first, attempts(1), Outcome.TLS)
    found = await host_row(engine)
    assert (found.streakCount, found.failureCount, found.successCount) == (1, FAILURES_AT_ONCE, 1)
    assert first.open_until(DEAD) is None


async def test_a_host_that_never_failed_has_no_row(engine: AsyncEngine) -> None:
    """Healthy hosts cost nothing; what was not sent says nothing."""
    hosts = Hosts()
    assert await note(engine, hosts, attempts(50), Outcome.DELIVERED) == []
    assert await note(engine, hosts, attempts(50), Outcome.BLOCKED) == []
    assert await host_row(engine) is None


async def test_an_open_host_gives_nothing_and_the_others_get_its_slots(engine: AsyncEngine) -> None:
    """A refusal uses up no attempt: the delivery stays due as it was."""
    await opened(engine, *(row(DEAD) for _ in range(30)), *(row("a:80") for _ in range(5)))
    found = await claimed(engine, claim(most=6))
    assert Counter(attempt.destination for attempt in found.attempts) == {"a:80": 5}
    async with engine.begin() as tx:
        counts = (await tx.execute(text('SELECT sum("attemptCount") FROM callback_deliveries'))).scalar()
    assert counts == 5


async def test_one_worker_probes_with_what_became_due_last(engine: AsyncEngine) -> None:
    """The other one, in the middle of its claim or later, gets nothing of that host."""
    old = [row(DEAD, nextAttemptAt=NOW - timedelta(hours=1)) for _ in range(5)]
    newest = row(DEAD, nextAttemptAt=NOW)
    await opened(engine, *old, newest)
    async with engine.begin() as first, engine.begin() as second:
        one = await claim_due(first, claim(now=PROBE_AT))
        two = await claim_due(second, claim(now=PROBE_AT))
    three = await claimed(engine, claim(now=PROBE_AT))
    assert [attempt.callback_id for attempt in one.attempts] == [newest["id"]]
    assert (two.attempts, three.attempts) == ([], [])


async def test_a_probe_that_fails_keeps_the_host_shut_for_longer(engine: AsyncEngine) -> None:
    """Whichever worker made it."""
    await opened(engine, row(DEAD), row(DEAD))
    [probe] = (await claimed(engine, claim(now=PROBE_AT))).attempts
    [change] = await note(engine, Hosts(), [probe], Outcome.CONNECTION, now=PROBE_AT)
    assert change.after is not None
    assert change.after.open_until is not None
    assert OPEN_FIRST_S < (change.after.open_until - PROBE_AT).total_seconds() <= 2 * OPEN_FIRST_S
    assert (await claimed(engine, claim(now=PROBE_AT))).attempts == []
    later = await claimed(engine, claim(now=PROBE_AT + timedelta(seconds=2 * OPEN_FIRST_S)))
    assert len(later.attempts) == 1


async def test_a_probe_that_is_answered_lets_all_that_waits_through(engine: AsyncEngine) -> None:
    """Also where it is a refusal: the host is there; and made by a worker that has not looked at the hosts since."""
    await opened(engine, *(row(DEAD) for _ in range(5)))
    [probe] = (await claimed(engine, claim(now=PROBE_AT))).attempts
    await note(engine, Hosts(), [probe], Outcome.REFUSED_STATUS, now=PROBE_AT)
    assert await host_row(engine) is None
    assert len((await claimed(engine, claim(now=PROBE_AT))).attempts) == 4


async def test_a_probe_whose_worker_died_is_followed_by_another(engine: AsyncEngine) -> None:
    """When its lease ends; with the delivery that was tried least, so that none spends its whole schedule on probes."""
    other = row(DEAD)
    await opened(engine, other, row(DEAD, nextAttemptAt=NOW))
    [lost] = (await claimed(engine, claim(now=PROBE_AT))).attempts
    assert lost.callback_id != other["id"]
    assert (await claimed(engine, claim(now=PROBE_AT + LEASE - timedelta(seconds=1)))).attempts == []
    found = await claimed(engine, claim(now=PROBE_AT + LEASE))
    assert [attempt.callback_id for attempt in found.attempts] == [other["id"]]
    assert (await host_row(engine)).probeId == other["id"]


async def test_a_probe_that_is_given_back_may_be_made_by_another_worker_at_once(engine: AsyncEngine) -> None:
    """A worker that drains."""
    await opened(engine, row(DEAD))
    [probe] = (await claimed(engine, claim(now=PROBE_AT))).attempts
    async with engine.begin() as tx:
        await give_back(tx, [probe])
        await release_probes(tx, [probe.callback_id])
    [again] = (await claimed(engine, claim(now=PROBE_AT))).attempts
    assert (again.callback_id, again.number) == (probe.callback_id, 1)


async def test_a_probe_waits_for_a_slot_of_its_host(engine: AsyncEngine) -> None:
    """What was in flight when it opened may hang still."""
    await opened(engine, row(DEAD))
    assert (await claimed(engine, claim(now=PROBE_AT, per_host=20, taken={DEAD: 20}))).attempts == []
    assert len((await claimed(engine, claim(now=PROBE_AT, per_host=20, taken={DEAD: 19}))).attempts) == 1


async def test_probes_that_were_not_made_are_released_in_the_order_in_which_all_lock_hosts(engine: AsyncEngine) -> None:
    """Whoever writes results meanwhile locks the same rows by name: in another order each would wait for the other."""
    ids = [uuid4(), uuid4()]
    async with engine.begin() as tx:
        # The order in which a statement without one of its own would find them.
        for destination, probe in (("b", ids[0]), ("a", ids[1])):
            await tx.execute(
                text("""
                    INSERT INTO callback_hosts (destination, "windowEndsAt", "successCount", "failureCount",
                        "failingIds", "streakCount", "openCount", "openUntil", "probeId", "probeUntil")
                    VALUES (:destination, now(), 0, 1, '{}', 1, 1, now(), :probe, now() + interval '1 minute')"""),
                {"destination": destination, "probe": probe},
            )

    async def release() -> None:
        async with engine.begin() as tx:
            await release_probes(tx, ids)

    lock = text("SELECT FROM callback_hosts WHERE destination = :destination FOR UPDATE")
    async with engine.begin() as tx:
        await tx.execute(lock, {"destination": "a"})
        releasing = asyncio.create_task(release())
        await eventually(lambda: somebody_waits(engine))
        await tx.execute(lock, {"destination": "b"})
    await releasing
    async with engine.connect() as tx:
        left = await tx.execute(text('SELECT count("probeId") FROM callback_hosts'))
    assert left.scalar_one() == 0


async def somebody_waits(engine: AsyncEngine) -> bool:
    """Whether a transaction of this database waits for a lock."""
    async with engine.connect() as tx:
        found = await tx.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
    return bool(found.scalar_one())


async def test_rows_that_say_nothing_any_more_go(engine: AsyncEngine) -> None:
    """Failures of long ago, and an open host that nobody has had anything for."""
    hosts = Hosts()
    await note(engine, hosts, attempts(1), Outcome.DNS)
    await refreshed(engine, hosts, NOW + timedelta(seconds=2 * WINDOW_S - 1))
    assert await host_row(engine) is not None
    await refreshed(engine, hosts, NOW + timedelta(seconds=2 * WINDOW_S))
    assert await host_row(engine) is None
    hosts = await opened(engine)
    await refreshed(engine, hosts, NOW + timedelta(seconds=UNPROBED_S))
    assert hosts.open_until(DEAD) is not None
    await refreshed(engine, hosts, PROBE_AT + timedelta(seconds=UNPROBED_S))
    assert hosts.open_until(DEAD) is None


async def test_slots_go_to_those_with_the_fewest_and_some_are_left(engine: AsyncEngine) -> None:
    """As for newborn deliveries: nobody gets more than are free then."""
    await insert(engine, *(row(destination) for destination in ("a", "b", "c") for _ in range(20)))
    found = await claimed(engine, claim(most=12, spare=12, taken={"a": 3}))
    assert Counter(attempt.destination for attempt in found.attempts) == {"a": 1, "b": 4, "c": 4}


async def unasked() -> None:
    """The clocks of these tests ask nobody."""


async def test_what_expires_ends_visibly_whatever_its_host_and_whoever_left_it(engine: AsyncEngine) -> None:
    """While a breaker is open the expiry runs on; what this worker has in hand is its own."""
    late = {"expiresAt": NOW}
    held, waiting, abandoned = row(DEAD, **late), row(DEAD, **late), row(DEAD, **late, leasedUntil=NOW)
    leased, fresh = row(DEAD, **late, leasedUntil=NOW + LEASE), row(DEAD)
    hosts = await opened(engine, held, waiting, abandoned, leased, fresh)
    async with engine.begin() as tx:
        await tx.execute(
            text("INSERT INTO callback_attempts VALUES (:id, 1, :now, NULL, 'open', NULL, NULL, NULL, false)"),
            {"id": abandoned["id"], "now": NOW},
        )
    upkeep = Upkeep(Patience(engine), hosts=hosts, in_hand=lambda: [held["id"]], clock=lambda: NOW, ask_time=unasked)
    assert await upkeep.run_once() == 2
    async with engine.begin() as tx:
        rows = await tx.execute(
            text('SELECT id, state, reason, "attemptCount", "leasedUntil" FROM callback_deliveries')
        )
        ends = {each.id: (each.state, each.reason) for each in rows}
        [outcome] = (await tx.execute(text("SELECT outcome FROM callback_attempts"))).scalars().all()
    assert {key for key, end in ends.items() if end == ("FAILED", "expired")} == {waiting["id"], abandoned["id"]}
    assert outcome == "ambiguous"


async def test_however_many_expire_at_once_all_of_them_end_in_one_turn(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    """In short transactions, before each of which the time is asked: others may lease by a new one."""
    await insert_backlog(database, f"'{DEAD}'", 2 * EXPIRED_MOST + 1, due="now() - interval '4 days'")
    asked = 0

    async def ask_time() -> None:
        nonlocal asked
        asked += 1

    upkeep = Upkeep(
        Patience(engine), hosts=Hosts(), in_hand=list, clock=lambda: datetime.now(NOW.tzinfo), ask_time=ask_time
    )
    assert await upkeep.run_once() == 2 * EXPIRED_MOST + 1
    assert asked == 3
    assert await upkeep.run_once() == 0


@pytest.mark.parametrize("is_analyzed", [False, True], ids=["stale statistics", "fresh statistics"])
async def test_a_backlog_of_a_hundred_thousand_leaves_the_claim_as_short_as_it_was(
    engine: AsyncEngine, database: asyncpg.Connection, is_analyzed: bool
) -> None:
    """It touches hardly more pages than beside a backlog that is no more than the host's share."""
    await insert_backlog(database, "'healthy-' || n || ':80'", 10)
    await insert_backlog(database, f"'{DEAD}'", 20)
    before, taken_before = await explained(engine)
    await insert_backlog(database, f"'{DEAD}'", 100_000)
    if is_analyzed:
        async with engine.begin() as tx:
            await tx.execute(text("ANALYZE callback_deliveries"))
    after, taken_after = await explained(engine)
    assert taken_before == taken_after == 10 + 19  # of eleven hosts one has more than its even share of 200 slots
    assert after <= 3 * before


async def explained(engine: AsyncEngine) -> tuple[int, int]:
    """The pages that a claim touches, and how many deliveries it takes; it is undone."""
    wanted = claim(now=datetime.now(NOW.tzinfo) + timedelta(seconds=1), most=200, spare=200)
    async with engine.connect() as tx:
        statement = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {CLAIM.text}")
        found: Any = (await tx.execute(statement, parameters_of(wanted))).scalar()
        await tx.rollback()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], plan["Actual Rows"]

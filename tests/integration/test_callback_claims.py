"""Claiming and closing in Postgres, transaction by transaction, without a worker around them."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from time import perf_counter

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.claims import DESTINATIONS_PER_CLAIM, Claim, Claimed, claim_due
from callback_worker.store import give_back
from shared.database import STATEMENT_TIMEOUT_S, create_engine, is_data_fault
from shared.failures import MOST_CHARS, reason_of
from tests.deliveries import DELIVERED, LEASE, NOW, RETRY, claim, claimed, close, insert, insert_backlog, row
from tests.servers import House

SHORT_S = STATEMENT_TIMEOUT_S / 5


@pytest.fixture
async def engine(house: House, database: asyncpg.Connection) -> AsyncIterator[AsyncEngine]:
    """Empty tables."""
    await database.execute("DELETE FROM callback_deliveries")
    made = create_engine(house.database_url, name="test", pool_size=3)
    yield made
    await made.dispose()


async def test_a_host_with_a_backlog_takes_one_turn_like_any_other(engine: AsyncEngine) -> None:
    """Fair over hosts, although the dead one's deliveries are all older."""
    old = NOW - timedelta(hours=1)
    await insert(engine, *(row("dead.example", nextAttemptAt=old) for _ in range(500)))
    await insert(engine, *(row(f"h{number}.example") for number in range(9)))
    found = await claimed(engine, claim(most=10))
    assert Counter(attempt.destination for attempt in found.attempts) == {
        "dead.example": 1,
        **{f"h{number}.example": 1 for number in range(9)},
    }


async def test_no_host_gets_more_than_its_free_slots(engine: AsyncEngine) -> None:
    """In flight and claimed together stay within the cap."""
    await insert(engine, *(row(host) for host in ("a", "b", "c") for _ in range(9)))
    found = await claimed(engine, claim(per_host=5, taken={"a": 5, "b": 3}))
    assert Counter(attempt.destination for attempt in found.attempts) == {"b": 2, "c": 5}


async def test_hosts_that_are_not_quick_share_what_is_left_for_them(engine: AsyncEngine) -> None:
    """However many and however old their deliveries are, those of the quick ones are claimed as well."""
    old = NOW - timedelta(hours=1)
    await insert(engine, *(row(f"thin-{number}", nextAttemptAt=old) for number in range(300)))
    await insert(engine, row("quick"), row("quick too"))
    found = await claimed(engine, claim(most=10, unproven_spare=4, quick=("quick", "quick too", "absent")))
    destinations = Counter(attempt.destination.split("-")[0] for attempt in found.attempts)
    assert destinations == {"thin": 4, "quick": 1, "quick too": 1}


async def test_where_nothing_is_left_for_others_only_the_quick_ones_are_claimed(engine: AsyncEngine) -> None:
    await insert(engine, *(row(host) for host in ("a", "b", "c") for _ in range(3)))
    found = await claimed(engine, claim(unproven_spare=0, quick=("b",)))
    assert Counter(attempt.destination for attempt in found.attempts) == {"b": 3}


async def test_one_host_that_is_not_quick_leaves_some_to_others_of_its_like(engine: AsyncEngine) -> None:
    """As with all slots: never more in flight than are free for them then."""
    await insert(engine, *(row("a") for _ in range(9)))
    found = await claimed(engine, claim(unproven_spare=4))
    assert len(found.attempts) == 2


async def test_what_is_not_due_leased_or_in_hand_is_left_alone(engine: AsyncEngine) -> None:
    """And so is what has ended."""
    due, held = row("a"), row("a")
    later, leased = row("a", nextAttemptAt=NOW + timedelta(seconds=1)), row("a", leasedUntil=NOW + LEASE)
    await insert(engine, due, held, later, leased, row("a", state="DELIVERED"))
    found = await claimed(engine, claim(in_hand=[held["id"]]))
    assert [attempt.callback_id for attempt in found.attempts] == [due["id"]]


async def test_two_workers_never_claim_the_same_delivery(engine: AsyncEngine) -> None:
    """The second takes what the first has not locked, without waiting for it."""
    await insert(engine, *(row("a") for _ in range(10)))
    async with engine.begin() as first, engine.begin() as second:
        one = await claim_due(first, claim(most=6))
        two = await claim_due(second, claim(most=6))
    ids = [attempt.callback_id for attempt in (*one.attempts, *two.attempts)]
    assert (len(one.attempts), len(two.attempts), len(set(ids))) == (6, 4, 10)


async def test_only_whoever_has_the_open_attempt_can_write_a_result(engine: AsyncEngine) -> None:
    """The attempt number is the fencing id."""
    await insert(engine, row("a"))
    [first] = (await claimed(engine, claim())).attempts
    taken_over = await claimed(engine, claim(now=NOW + LEASE))
    [second] = taken_over.attempts
    assert (first.number, second.number, taken_over.abandoned) == (1, 2, [first.callback_id])
    assert await close(engine, first, DELIVERED) == set()
    assert await close(engine, second, RETRY) == {second.callback_id}
    assert await close(engine, second, DELIVERED) == set()
    [third] = (await claimed(engine, claim(now=NOW + timedelta(seconds=60)))).attempts
    assert third.number == 3


async def test_an_expired_delivery_is_not_claimed(engine: AsyncEngine) -> None:
    """Upkeep ends it, whatever its destination."""
    await insert(engine, row("a", expiresAt=NOW), row("b", expiresAt=NOW, leasedUntil=NOW))
    assert (await claimed(engine, claim())).attempts == []


async def test_text_that_is_too_long_is_refused_and_never_cut(engine: AsyncEngine) -> None:
    """A URL without its end is another URL."""
    with pytest.raises(DBAPIError) as caught:
        await insert(engine, row("a", url="http://a/" + "x" * 2048))
    assert is_data_fault(caught.value)


async def test_a_claim_visits_so_many_hosts_and_the_next_goes_on_there(engine: AsyncEngine) -> None:
    """In a circle, so that none starves however few slots there are; what is not due costs no visit's lock."""
    later = NOW + timedelta(seconds=1)
    await insert(engine, *(row(f"h{number}", nextAttemptAt=NOW) for number in range(5) for _ in range(3)))
    await insert(engine, row("h1b", nextAttemptAt=later))
    order: list[str] = []
    first = ""
    for _ in range(45):
        found = await claimed(engine, claim(most=1, most_destinations=2, first=first))
        order += [attempt.destination for attempt in found.attempts]
        first = found.next_destination
    # Two hosts a visit, one slot: every visit serves one of the two, whatever the others have.
    assert {order[0], order[1], order[2]} == {"h0", "h2", "h3"}
    assert Counter(order) == {f"h{number}": 3 for number in range(5)}


async def test_a_hundred_thousand_hosts_are_claimed_in_short_statements(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    """Far below the statement timeout each, and all of them within one round."""
    await insert_backlog(database, "'h' || n || '.example:80'", 100_000, due=f"TIMESTAMPTZ '{NOW}'")
    longest_s, count, first = 0.0, 0, ""
    for turn in range(100_000 // DESTINATIONS_PER_CLAIM):
        found, lasted_s = await claimed_for_the_least_time(engine, claim(most=200, first=first))
        longest_s = max(longest_s, lasted_s)
        count, first = count + len(found.attempts), found.next_destination
        assert (first == "") == (turn == 100_000 // DESTINATIONS_PER_CLAIM - 1)
    assert count == 200 * 100_000 // DESTINATIONS_PER_CLAIM
    assert longest_s < SHORT_S


async def claimed_for_the_least_time(engine: AsyncEngine, wanted: Claim) -> tuple[Claimed, float]:
    """A claim and how long it took. One that is long is undone and made again: the same work, on a quieter machine."""
    lasted_s: list[float] = []
    while True:
        async with engine.connect() as tx:
            began = perf_counter()
            found = await claim_due(tx, wanted)
            lasted_s.append(perf_counter() - began)
            if lasted_s[-1] < SHORT_S or len(lasted_s) == 3:
                await tx.commit()
                return found, min(lasted_s)


async def test_after_an_outage_nothing_is_taken_over(engine: AsyncEngine) -> None:
    """What was never claimed is; what has a lease that ended may have a worker that is about to write its result."""
    fresh, abandoned = row("a"), row("a", leasedUntil=NOW)
    await insert(engine, fresh, abandoned)
    found = await claimed(engine, claim(takes_over=False))
    assert ([attempt.callback_id for attempt in found.attempts], found.abandoned) == ([fresh["id"]], [])
    assert (await claimed(engine, claim())).abandoned == [abandoned["id"]]


async def test_an_attempt_that_was_not_made_is_given_back_and_its_number_used_again(engine: AsyncEngine) -> None:
    """Due as before for any worker; only whoever has it open can give it back."""
    await insert(engine, row("a"))
    [first] = (await claimed(engine, claim())).attempts
    async with engine.begin() as tx:
        await give_back(tx, [first])
        await give_back(tx, [first])
    [second] = (await claimed(engine, claim())).attempts
    assert (second.callback_id, second.number) == (first.callback_id, 1)
    assert await close(engine, second, DELIVERED) == {second.callback_id}
    async with engine.begin() as tx:
        await give_back(tx, [first])
        rows = (await tx.execute(text("SELECT outcome FROM callback_attempts"))).scalars().all()
    assert rows == ["delivered"]


SECRET = "https://a.example/?token=s3cret"
FAULTS = [
    ("SELECT CAST(:value AS integer[])", [SECRET], "22000"),
    ("SELECT CAST(CAST(:value AS text) AS uuid)", SECRET, "22P02"),
    ("SELECT CAST(:value AS text) || chr(0)", SECRET, "54000"),
    ("SELECT CAST(:value AS text) FROM nowhere", SECRET, "not provisioned"),
]


@pytest.mark.parametrize(("statement", "value", "expected"), FAULTS)
async def test_the_reason_of_a_database_error_quotes_no_value(
    engine: AsyncEngine, statement: str, value: object, expected: str
) -> None:
    """asyncpg's messages hold the arguments, SQLAlchemy's the parameters."""
    with pytest.raises(DBAPIError) as caught:
        async with engine.begin() as tx:
            await tx.execute(text(statement), {"value": value})
    reason = reason_of(caught.value)
    assert expected in reason
    assert "s3cret" not in reason
    assert "\n" not in reason
    assert len(reason) <= MOST_CHARS

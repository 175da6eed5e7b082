"""Claiming and closing in Postgres, transaction by transaction, without a worker around them."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.delivery import Attempt, Next, Outcome, Result, State
from callback_worker.store import (
    HOSTS_PER_CLAIM,
    Claim,
    Claimed,
    Closing,
    claim_due,
    close_attempts,
    give_back,
    insert_deliveries,
)
from shared.database import STATEMENT_TIMEOUT_S, create_engine, is_data_fault
from shared.failures import MOST_CHARS, reason_of
from tests.servers import House

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=25)


@pytest.fixture
async def engine(house: House) -> AsyncIterator[AsyncEngine]:
    """Empty tables."""
    made = create_engine(house.database_url, name="test", pool_size=3)
    async with made.begin() as tx:
        await tx.execute(text("DELETE FROM callback_deliveries"))
    yield made
    await made.dispose()


def row(host: str, **changes: Any) -> dict[str, Any]:
    """A delivery that is due."""
    defaults: dict[str, Any] = {
        "id": uuid4(), "eventId": uuid4(), "type": "session.started", "sessionId": None, "requestId": None,
        "client": None, "url": f"http://{host}/", "host": host, "body": "{}", "state": "PENDING", "attemptCount": 0,
        "nextAttemptAt": NOW - timedelta(seconds=1), "leasedUntil": None, "expiresAt": NOW + timedelta(days=3),
        "createdAt": NOW,
    }  # fmt: skip
    return defaults | changes


async def insert(engine: AsyncEngine, *rows: dict[str, Any]) -> set[UUID]:
    async with engine.begin() as tx:
        return await insert_deliveries(tx, rows)


def claim(
    *, now: datetime = NOW, most: int = 100, per_host: int = 20,
    taken: Mapping[str, int] | None = None, in_hand: Collection[UUID] = (), **others: Any,
) -> Claim:  # fmt: skip
    return Claim(
        now=now, leased_until=now + LEASE, most=most, per_host=per_host, taken=taken or {}, in_hand=in_hand, **others
    )  # fmt: skip


async def claimed(engine: AsyncEngine, wanted: Claim) -> Claimed:
    async with engine.begin() as tx:
        return await claim_due(tx, wanted)


async def close(engine: AsyncEngine, attempt: Attempt, following: Next) -> set[UUID]:
    result = Result(outcome=Outcome.DELIVERED, duration_ms=5, status_code=200)
    async with engine.begin() as tx:
        return await close_attempts(tx, [Closing(attempt, result, following)], NOW)


async def test_a_host_with_a_backlog_takes_one_turn_like_any_other(engine: AsyncEngine) -> None:
    """Fair over hosts, although the dead one's deliveries are all older."""
    old = NOW - timedelta(hours=1)
    await insert(engine, *(row("dead.example", nextAttemptAt=old) for _ in range(500)))
    await insert(engine, *(row(f"h{number}.example") for number in range(9)))
    found = await claimed(engine, claim(most=10))
    assert Counter(attempt.host for attempt in found.attempts) == {
        "dead.example": 1,
        **{f"h{number}.example": 1 for number in range(9)},
    }


async def test_no_host_gets_more_than_its_free_slots(engine: AsyncEngine) -> None:
    """In flight and claimed together stay within the cap."""
    await insert(engine, *(row(host) for host in ("a", "b", "c") for _ in range(9)))
    found = await claimed(engine, claim(per_host=5, taken={"a": 5, "b": 3}))
    assert Counter(attempt.host for attempt in found.attempts) == {"b": 2, "c": 5}


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
    assert await close(engine, first, Next(State.DELIVERED)) == set()
    retry = Next(State.PENDING, next_attempt_at=NOW + timedelta(seconds=60))
    assert await close(engine, second, retry) == {second.callback_id}
    assert await close(engine, second, Next(State.DELIVERED)) == set()
    [third] = (await claimed(engine, claim(now=NOW + timedelta(seconds=60)))).attempts
    assert third.number == 3


async def test_an_expired_delivery_is_failed_instead_of_claimed(engine: AsyncEngine) -> None:
    """Whether or not its last attempt was left open."""
    await insert(engine, row("a", expiresAt=NOW), row("b", expiresAt=NOW, leasedUntil=NOW))
    found = await claimed(engine, claim())
    assert (found.attempts, len(found.expired), len(found.abandoned)) == ([], 2, 1)
    assert (await claimed(engine, claim())).expired == []


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
    first_host = ""
    for _ in range(45):
        found = await claimed(engine, claim(most=1, most_hosts=2, first_host=first_host))
        order += [attempt.host for attempt in found.attempts]
        first_host = found.next_host
    # Two hosts a visit, one slot: every visit serves one of the two, whatever the others have.
    assert {order[0], order[1], order[2]} == {"h0", "h2", "h3"}
    assert Counter(order) == {f"h{number}": 3 for number in range(5)}


async def test_a_hundred_thousand_hosts_are_claimed_in_short_statements(engine: AsyncEngine) -> None:
    """Far below the statement timeout each, and all of them within one round."""
    async with engine.begin() as tx:
        await tx.execute(
            text("""INSERT INTO callback_deliveries (id, "eventId", type, url, host, body, state, "attemptCount",
                "nextAttemptAt", "expiresAt", "createdAt")
            SELECT gen_random_uuid(), gen_random_uuid(), 't', 'http://h/', 'h' || n || '.example', '{}', 'PENDING', 0,
                CAST(:now AS timestamptz), CAST(:now AS timestamptz) + interval '1 day', :now
            FROM generate_series(1, 100000) AS n"""),
            {"now": NOW},
        )
    longest_s, count, first_host = 0.0, 0, ""
    for turn in range(100_000 // HOSTS_PER_CLAIM):
        began = perf_counter()
        found = await claimed(engine, claim(most=200, first_host=first_host))
        longest_s = max(longest_s, perf_counter() - began)
        count, first_host = count + len(found.attempts), found.next_host
        assert (first_host == "") == (turn == 100_000 // HOSTS_PER_CLAIM - 1)
    assert count == 200 * 100_000 // HOSTS_PER_CLAIM
    assert longest_s < STATEMENT_TIMEOUT_S / 5


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
    assert await close(engine, second, Next(State.DELIVERED)) == {second.callback_id}
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

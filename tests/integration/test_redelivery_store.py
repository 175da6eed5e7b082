"""Redeliveries in Postgres, transaction by transaction, without a worker around them."""

from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.delivery import Attempt, Outcome
from callback_worker.redelivery_store import (
    Taken,
    Turn,
    add_job,
    add_redelivery,
    close_redeliveries,
    count_redeliveries,
    expire,
    find_waiting,
    step,
    take_redeliveries,
)
from callback_worker.store import give_back
from shared.callback_commands import Redeliver
from shared.database import create_engine
from tests.deliveries import DELIVERED, LEASE, NOW, RETRY, claim, claimed, close, closing, insert, row
from tests.servers import House

EXPIRES_AT = NOW + timedelta(days=3)


@pytest.fixture
async def engine(house: House) -> AsyncIterator[AsyncEngine]:
    """Empty tables."""
    made = create_engine(house.database_url, name="test", pool_size=3)
    async with made.begin() as tx:
        for table in ("callback_deliveries", "callback_redelivery_jobs"):
            await tx.execute(text(f"DELETE FROM {table}"))
    yield made
    await made.dispose()


async def put(engine: AsyncEngine, destination: str = "a:80", **changes: Any) -> UUID:
    """Insert a delivery that has failed; return its id."""
    ended = {"state": "FAILED", "nextAttemptAt": None} if "state" not in changes else {}
    [inserted] = await insert(engine, row(destination, **(ended | changes)))
    return inserted


async def ask(engine: AsyncEngine, callback_id: UUID, *, now: datetime = NOW, client: str | None = None) -> bool:
    async with engine.begin() as tx:
        return await add_redelivery(tx, callback_id, uuid4(), client, now=now, expires_at=EXPIRES_AT)


async def taken(
    engine: AsyncEngine, *, now: datetime = NOW, in_hand: Collection[UUID] = (), takes_over: bool = True, **counts: int
) -> Taken:
    counts = {f"{name}:80": count for name, count in (counts or {"a": 10}).items()}
    turn = Turn(now=now, leased_until=now + LEASE, counts=counts, in_hand=list(in_hand), takes_over=takes_over)
    async with engine.begin() as tx:
        return await take_redeliveries(tx, turn)


async def closed(engine: AsyncEngine, attempt: Attempt, outcome: Outcome) -> set[UUID]:
    async with engine.begin() as tx:
        return await close_redeliveries(tx, [closing(attempt, outcome, DELIVERED)], NOW)


async def shown(engine: AsyncEngine, callback_id: UUID) -> Any:
    async with engine.connect() as tx:
        found = await tx.execute(text("SELECT * FROM callback_deliveries WHERE id = :id"), {"id": callback_id})
        return found.one()


async def outcomes(engine: AsyncEngine, callback_id: UUID) -> list[tuple[str, bool]]:
    async with engine.connect() as tx:
        query = text('SELECT outcome, manual FROM callback_attempts WHERE "callbackId" = :id ORDER BY number')
        return [(each.outcome, each.manual) for each in await tx.execute(query, {"id": callback_id})]


async def test_a_turn_leases_the_delivery_and_two_asked_for_come_one_after_the_other(engine: AsyncEngine) -> None:
    """At most one attempt of a delivery is in hand; each of the two is made once."""
    callback_id = await put(engine)
    for _ in range(2):
        assert await ask(engine, callback_id)
    [first] = (await taken(engine)).attempts
    assert (first.number, first.manual_count, first.leased_until) == (1, 1, NOW + LEASE)
    assert (await taken(engine)).attempts == []
    assert await closed(engine, first, Outcome.TIMEOUT_RESPONSE) == {callback_id}
    [second] = (await taken(engine)).attempts
    assert (second.number, second.redelivery != first.redelivery) == (2, True)
    await closed(engine, second, Outcome.DELIVERED)
    assert (await taken(engine)).attempts == []
    assert (await shown(engine, callback_id)).state == "DELIVERED"


async def test_each_is_counted_once_before_during_and_after_its_attempt(engine: AsyncEngine) -> None:
    """And for an hour, say; scheduled attempts are none of them, nor is one that was not made."""
    callback_id = await put(engine, state="PENDING", client="app")

    async def count(client: str = "app", since: datetime = NOW - timedelta(hours=1)) -> int:
        async with engine.connect() as tx:
            return await count_redeliveries(tx, callback_id, client, since=since)

    [scheduled] = (await claimed(engine, claim())).attempts
    await close(engine, scheduled, RETRY)
    assert await count() == 0
    assert await ask(engine, callback_id)
    assert await count() == 1
    [first] = (await taken(engine)).attempts
    assert await count() == 1
    async with engine.begin() as tx:
        await give_back(tx, [first])
    assert await count() == 1
    [first] = (await taken(engine)).attempts
    await closed(engine, first, Outcome.DELIVERED)
    assert await count() == 1
    assert await ask(engine, callback_id)
    assert await count() == 2
    assert await count(since=NOW) == 1
    assert await count("another") == 0


async def test_what_is_in_hand_or_claimed_has_its_turn_later(engine: AsyncEngine) -> None:
    """A scheduled attempt in flight, here or elsewhere: the redelivery waits for its end."""
    callback_id = await put(engine, state="PENDING")
    [scheduled] = (await claimed(engine, claim())).attempts
    await ask(engine, callback_id)
    assert (await taken(engine)).attempts == []
    assert await close(engine, scheduled, DELIVERED) == {callback_id}
    assert (await taken(engine, in_hand=[callback_id])).attempts == []
    assert len((await taken(engine)).attempts) == 1


async def test_a_dead_workers_attempt_is_ambiguous_and_made_again(engine: AsyncEngine) -> None:
    """Once its lease has ended, and unless the database has just come back; its late result is dropped."""
    callback_id = await put(engine)
    await ask(engine, callback_id)
    [first] = (await taken(engine)).attempts
    later = NOW + LEASE
    assert (await taken(engine, now=later, takes_over=False)).attempts == []
    again = await taken(engine, now=later)
    assert (again.abandoned, [attempt.number for attempt in again.attempts]) == ([callback_id], [2])
    assert await closed(engine, first, Outcome.DELIVERED) == set()
    assert await outcomes(engine, callback_id) == [("ambiguous", True), ("open", True)]
    assert again.attempts[0].redelivery == first.redelivery


async def test_a_schedule_that_takes_over_leaves_the_redelivery_to_come(engine: AsyncEngine) -> None:
    """The scheduled attempt has its own place, the redelivery its turn after it."""
    callback_id = await put(engine, state="PENDING")
    await ask(engine, callback_id)
    await taken(engine)
    [scheduled] = (await claimed(engine, claim(now=NOW + LEASE))).attempts
    assert (scheduled.number, scheduled.place) == (2, 1)
    await close(engine, scheduled, DELIVERED)
    assert [attempt.number for attempt in (await taken(engine)).attempts] == [3]


async def test_what_was_not_sent_is_given_back_whole(engine: AsyncEngine) -> None:
    """A drain: no attempt is used up, and the number may be a scheduled one's next."""
    callback_id = await put(engine, state="PENDING")
    await ask(engine, callback_id)
    [manual] = (await taken(engine)).attempts
    async with engine.begin() as tx:
        await give_back(tx, [manual])
    delivery = await shown(engine, callback_id)
    assert (delivery.attemptCount, delivery.manualCount, delivery.leasedUntil) == (0, 0, None)
    [scheduled] = (await claimed(engine, claim())).attempts
    assert (scheduled.number, scheduled.place) == (1, 1)
    assert await outcomes(engine, callback_id) == [("open", False)]
    await close(engine, scheduled, DELIVERED)
    assert len((await taken(engine)).attempts) == 1


async def test_a_turn_gives_each_destination_its_count_oldest_first(engine: AsyncEngine) -> None:
    for number, destination in enumerate(["a:80", "a:80", "a:80", "b:80", "c:80"]):
        callback_id = await put(engine, destination)
        await ask(engine, callback_id, now=NOW - timedelta(seconds=number))
    async with engine.begin() as tx:
        assert await find_waiting(tx, "") == ["a:80", "b:80", "c:80"]
        assert await find_waiting(tx, "b:80", 1) == ["b:80", "c:80"]
    found = await taken(engine, a=2, b=5)
    assert sorted(attempt.destination for attempt in found.attempts) == ["a:80", "a:80", "b:80"]
    assert len((await taken(engine, a=9, b=9, c=9)).attempts) == 2


async def test_a_filter_is_worked_off_in_steps_and_finds_each_once(engine: AsyncEngine) -> None:
    """In the order of birth, a bounded number read at a time; what is born after it was asked for is not found."""
    ids = sorted([await put(engine, createdAt=NOW - timedelta(hours=1)) for _ in range(7)])
    await put(engine, createdAt=NOW + timedelta(seconds=1))
    await put(engine, "b:80", createdAt=NOW - timedelta(hours=1))
    async with engine.begin() as tx:
        await add_job(tx, Redeliver(host="a:80"), uuid4(), NOW)
    steps = []
    while (added := await one_step(engine)) is not None:
        steps.append(added)
    assert (sum(steps), len(steps)) == (7, 4)
    assert sorted(attempt.callback_id for attempt in (await taken(engine)).attempts) == ids


async def one_step(engine: AsyncEngine) -> int | None:
    async with engine.begin() as tx:
        return await step(tx, now=NOW, expires_at=EXPIRES_AT, most=3)


async def test_a_redelivery_that_finds_no_turn_is_forgotten(engine: AsyncEngine) -> None:
    await ask(engine, await put(engine))
    async with engine.begin() as tx:
        assert await expire(tx, EXPIRES_AT - timedelta(seconds=1)) == 0
        assert await expire(tx, EXPIRES_AT) == 1
    assert (await taken(engine)).attempts == []


async def test_only_what_there_is_of_the_client_can_be_asked_for(engine: AsyncEngine) -> None:
    callback_id = await put(engine, client="app")
    assert [await ask(engine, callback_id, client=client) for client in (None, "app", "other")] == [True, True, False]
    assert not await ask(engine, uuid4())

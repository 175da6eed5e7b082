"""One suspect at a time over all that a process holds, and everything else before it."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from shared.broker.care import SUSPECTS_PER_STEP, Care
from shared.broker.hold import SUSPECT_AFTER_DELIVERIES, Hold
from tests.unit.test_hold import came, tags


def holding(care: Care, deliveries: Sequence[int]) -> Hold:
    """A channel with messages of tags from 1 on, delivered so often before."""
    hold = Hold()
    care.begin(hold)
    for tag, count in enumerate(deliveries, 1):
        hold.arrived(came(tag, deliveries=count), 0)
    return hold


def try_next(care: Care, holds: Sequence[Hold]) -> tuple[int, list[int]]:
    """Take what is released, in which of the holds, without settling it."""
    (number,) = (number for number, hold in enumerate(holds) if hold.has_ready)
    assert care.tries(holds[number])
    return number, tags(holds[number].take(250))


def test_nothing_is_tried_before_every_channel_rests() -> None:
    """Whatever any of them holds would come closer to the limit by a death."""
    care = Care()
    holds = [holding(care, [SUSPECT_AFTER_DELIVERIES]), holding(care, [0])]
    assert care.is_needed
    care.rest(holds[0])
    assert not holds[0].has_ready
    holds[1].take(1)
    holds[1].settled([1], 0)
    care.rest(holds[1])
    assert try_next(care, holds) == (0, [1])
    assert care.is_needed
    holds[0].settled([1], 0)
    care.rest(holds[0])
    assert not care.is_needed


def test_one_at_a_time_over_all_queues() -> None:
    care = Care(random.Random(7))
    holds = [holding(care, [SUSPECT_AFTER_DELIVERIES] * 4), holding(care, [SUSPECT_AFTER_DELIVERIES] * 4)]
    for hold in holds:
        care.rest(hold)
    tried = []
    while care.is_needed:
        number, taken = try_next(care, holds)
        assert len(taken) == 1
        tried.append((number, taken[0]))
        holds[number].settled(taken, 0)
        care.rest(holds[number])
    assert sorted(tried) == [(number, tag) for number in (0, 1) for tag in (1, 2, 3, 4)]
    assert tried != sorted(tried)


def test_what_does_no_harm_lets_more_be_tried_at_a_time() -> None:
    """Five hundred that many restarts brought back are soon settled; the next time care begins anew."""
    care = Care()
    hold = holding(care, [SUSPECT_AFTER_DELIVERIES] * 500)
    care.rest(hold)
    sizes = []
    while care.is_needed:
        taken = tags(hold.take(250))
        sizes.append(len(taken))
        hold.settled(taken, 0)
        care.rest(hold)
    assert sizes[: SUSPECTS_PER_STEP + 2] == [1] * SUSPECTS_PER_STEP + [2, 2]
    assert (sum(sizes), len(sizes) < 70) == (500, True)
    care.begin(hold)
    for tag in (501, 502):
        hold.arrived(came(tag, deliveries=9), 0)
    care.rest(hold)
    assert len(hold.take(250)) == 1


def test_a_channel_that_ends_holds_up_nobody() -> None:
    """Neither with what it was to settle first nor with what was tried on it."""
    care = Care()
    busy, hold, tried = holding(care, [0]), holding(care, [SUSPECT_AFTER_DELIVERIES]), holding(care, [])
    care.rest(hold)
    care.rest(tried)
    care.end(busy)
    assert care.tries(hold)
    care.end(hold)
    assert not care.is_needed


async def test_who_waits_looks_whenever_something_happens() -> None:
    care = Care()
    hold = holding(care, [])
    waiting = [asyncio.create_task(care.until(lambda: care.is_needed)) for _ in range(2)]
    await asyncio.sleep(0)
    care.note()
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    hold.arrived(came(1, deliveries=SUSPECT_AFTER_DELIVERIES), 0)
    care.note()
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [(500, 1), (1, 500), (250, 250)])
def test_neighbours_of_what_kills_are_soon_settled(seed: int, sizes: tuple[int, int]) -> None:
    """In any order of its own something would die beside it each time; so would another queue, tried on its own."""
    chance = random.Random(seed)
    left = {(queue, number) for queue, size in enumerate(sizes) for number in range(size)}
    killer, deaths = (0, sizes[0] // 2), 0
    while left != {killer}:
        care = Care(chance)
        kept = [sorted(each for each in left if each[0] == queue) for queue in (0, 1)]
        holds = [holding(care, [SUSPECT_AFTER_DELIVERIES + deaths] * len(each)) for each in kept]
        for hold in holds:
            care.rest(hold)
        while care.is_needed:
            queue, taken = try_next(care, holds)
            came_up = {kept[queue][tag - 1] for tag in taken}
            if killer in came_up:
                break
            left -= came_up
            holds[queue].settled(taken, 0)
            care.rest(holds[queue])
        deaths += 1
    assert deaths < 20

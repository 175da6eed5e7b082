"""How many of each destination have their turn when what was asked for again is sent."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from callback_worker.redeliveries import PER_HOST_AND_TURN, Redeliveries
from callback_worker.retries import Alarm
from callback_worker.slots import Slots


class Room:
    """A dispatcher that has as much room as there are free slots."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def room(self) -> int:
        return self._slots.free


def counts(slots: Slots, destinations: list[str]) -> Mapping[str, int]:
    nobody, dispatcher = cast("Any", None), cast("Any", Room(slots))
    redeliveries = Redeliveries(
        nobody, dispatcher=dispatcher, slots=slots, terms=nobody, alarm=Alarm(lambda: datetime.now(UTC)),
        clock=lambda: datetime.now(UTC),
    )  # fmt: skip
    return redeliveries._counts(destinations)


def test_one_destination_has_its_turn_within_the_pace() -> None:
    assert counts(Slots(total=200, per_host=20), ["a"]) == {"a": PER_HOST_AND_TURN}


def test_those_that_may_hang_take_nothing_of_what_is_kept_for_the_quick() -> None:
    """An operator who sends everything again to hundreds of dead hosts does not stop the others."""
    slots = Slots(total=200, per_host=20)
    slots.note("quick", 0.1)
    for number in range(148):
        assert slots.take(f"hangs-{number}")
    assert counts(slots, ["a", "b", "quick", "c"]) == {"a": 2, "quick": PER_HOST_AND_TURN}
    for host in ("d", "e"):
        assert slots.occupy(host)
    assert counts(slots, ["a", "quick"]) == {"quick": PER_HOST_AND_TURN}

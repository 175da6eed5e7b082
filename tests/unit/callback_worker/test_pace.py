"""The pace of bulk redelivery: so many at once, so many a second, each destination for itself."""

from callback_worker.pace import Pace


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def spend_all(pace: Pace, destination: str) -> int:
    count = pace.left(destination)
    for _ in range(count):
        pace.spend(destination)
    return count


def test_a_destination_is_given_its_burst_and_then_its_rate() -> None:
    """A second's worth in a second, however often it is asked."""
    clock = Clock()
    pace = Pace(rate=50, burst=10, now_s=clock)
    assert (spend_all(pace, "a"), spend_all(pace, "a"), spend_all(pace, "b")) == (10, 0, 10)
    count = 0
    for _ in range(100):
        clock.now_s += 0.01
        count += spend_all(pace, "a")
    assert 49 <= count <= 50


def test_rest_saves_up_one_burst_and_no_more() -> None:
    clock = Clock()
    pace = Pace(rate=50, burst=10, now_s=clock)
    spend_all(pace, "a")
    clock.now_s += 3600
    assert spend_all(pace, "a") == 10


def test_only_those_served_lately_are_kept() -> None:
    """A million destinations in a year leave nothing behind."""
    clock = Clock()
    pace = Pace(rate=50, burst=10, now_s=clock)
    for number in range(100):
        pace.spend(f"{number}")
    clock.now_s += 1
    pace.spend("late")
    pace.forget()
    assert list(pace._left) == ["late"]

"""How fast a destination is given what was asked for in bulk: a token bucket for each that was served lately."""

from collections.abc import Callable


class Pace:
    """At most `rate` a second to one destination, and `burst` at once."""

    def __init__(self, *, rate: float, burst: int, now_s: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._now_s = now_s
        # What a destination had left, and when; one that is not here has all.
        self._left: dict[str, tuple[float, float]] = {}

    def left(self, destination: str) -> int:
        """Return how many the destination may be given now."""
        return int(self._tokens(destination, self._now_s()))

    def spend(self, destination: str) -> None:
        """Note that the destination was given one."""
        now = self._now_s()
        self._left[destination] = (self._tokens(destination, now) - 1, now)

    def forget(self) -> None:
        """Drop those that have all again, so that only those lately served are kept."""
        now = self._now_s()
        full = [destination for destination in self._left if self._tokens(destination, now) >= self._burst]
        for destination in full:
            del self._left[destination]

    def _tokens(self, destination: str, now: float) -> float:
        left, since = self._left.get(destination, (float(self._burst), now))
        return min(float(self._burst), left + (now - since) * self._rate)

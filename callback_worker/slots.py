"""How many attempts may be in flight: in all, and to one destination, so that none takes what others need.

The caps alone would let some slow destinations share out all slots. So near the end a destination gets one more slot
only while it has fewer than are free: whoever has none in flight finds one, however many others are slow.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping


class Slots:
    """A count per destination under both caps. Whoever decides what to claim holds `claiming` from taking to commit."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = total
        self.per_host = per_host
        # Where the caps leave no room for two, whoever set them wants no sharing; one alone always reaches its cap.
        self._is_shared = total >= 2 * per_host
        self._taken: Counter[str] = Counter()
        self._count = 0
        self._closed = False
        self.claiming = asyncio.Lock()
        self.on_free: Callable[[], None] = lambda: None

    @property
    def free(self) -> int:
        """How many attempts more may be claimed, over all destinations; none once closed."""
        return 0 if self._closed else self._total - self._count

    @property
    def spare(self) -> int:
        """Below how many in flight a destination may have one more, as far as the others are concerned."""
        return self._total - self._count if self._is_shared else self._total

    @property
    def taken(self) -> Mapping[str, int]:
        """The destinations with attempts in flight, and how many."""
        return self._taken

    @property
    def is_tight(self) -> bool:
        """Whether some destination has as many in flight as it may."""
        return max(self._taken.values(), default=0) >= min(self.per_host, self.spare)

    def take(self, destination: str) -> bool:
        """Take a slot if the destination may have one more."""
        if self._taken.get(destination, 0) >= self.spare:
            return False
        return self.occupy(destination)

    def occupy(self, destination: str) -> bool:
        """Take a slot for what was claimed, within the caps, closed or not: the claim has shared them out."""
        if self._count >= self._total or self._taken.get(destination, 0) >= self.per_host:
            return False
        self._taken[destination] += 1
        self._count += 1
        return True

    def give_back(self, destination: str) -> None:
        """Free a slot that was taken; `on_free` hears of it where that lets somebody claim who could not."""
        is_short = self._count >= self._total or self.spare <= self.per_host
        was_in_the_way = is_short or self._taken[destination] >= self.per_host
        self._count -= 1
        self._taken[destination] -= 1
        if not self._taken[destination]:
            del self._taken[destination]
        if was_in_the_way:
            self.on_free()

    def close(self) -> None:
        """Let nothing more be claimed."""
        self._closed = True

"""How many attempts may be in flight: in all, and to one destination, so that none takes what others need.

The caps alone would let some slow destinations share out all slots. So near the end a destination gets one more slot
only while it has fewer than are free: whoever has none in flight finds one, however many others are slow. And hundreds
that hang with one attempt each would take all: so a share is kept for destinations whose last attempt was over quickly.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping

# Below the bounds on DNS and connecting, and far below the deadline: whoever is over by then holds up nobody.
QUICK_S = 1.5
# Of these a worker has some in flight at a time; one that is forgotten proves itself anew, by a single attempt.
QUICK_MOST = 2000
# Hangers may hold three quarters of the slots, so that a share of each worker serves the others as ever.
KEPT_SHARE = 4


class Slots:
    """A count per destination under both caps. Whoever decides what to claim holds `claiming` from taking to commit."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = total
        self.per_host = per_host
        # Where the caps leave no room for two, whoever set them wants no sharing; one alone always reaches its cap.
        self._is_shared = total >= 2 * per_host
        self.kept = min(total // KEPT_SHARE, max(0, total - 2 * per_host))
        self._taken: Counter[str] = Counter()
        self._count = 0
        # In the order of their last quick attempts.
        self._quick: dict[str, None] = {}
        # How many are in flight to destinations that are none of these.
        self._unproven_count = 0
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
    def unproven_spare(self) -> int:
        """The same for one that is not known to be quick."""
        return max(0, self._total - self.kept - self._unproven_count) if self.kept else self.spare

    @property
    def quick(self) -> Collection[str]:
        """The destinations whose last attempt here was over quickly."""
        return self._quick.keys()

    @property
    def taken(self) -> Mapping[str, int]:
        """The destinations with attempts in flight, and how many."""
        return self._taken

    @property
    def is_tight(self) -> bool:
        """Whether some destination has as many in flight as it may."""
        return max(self._taken.values(), default=0) >= min(self.per_host, self.spare, self.unproven_spare)

    def spare_of(self, destination: str) -> int:
        """Below how many in flight this destination may have one more, as far as the others are concerned."""
        return self.spare if destination in self._quick else min(self.spare, self.unproven_spare)

    def take(self, destination: str) -> bool:
        """Take a slot if the destination may have one more."""
        if self._taken.get(destination, 0) >= self.spare_of(destination):
            return False
        return self.occupy(destination)

    def occupy(self, destination: str) -> bool:
        """Take a slot for what was claimed, within the caps, closed or not: the claim has shared them out."""
        if self._count >= self._total or self._taken.get(destination, 0) >= self.per_host:
            return False
        self._taken[destination] += 1
        self._count += 1
        self._unproven_count += destination not in self._quick
        return True

    def note(self, destination: str, lasted_s: float) -> None:
        """Learn how long an attempt lasted, however it ended; `on_free` hears of a destination that turns out quick."""
        was_quick = destination in self._quick
        self._forget(destination)
        if lasted_s > QUICK_S:
            return
        self._quick[destination] = None
        # What else it has in flight will be over as soon.
        self._unproven_count -= self._taken[destination]
        if len(self._quick) > QUICK_MOST:
            self._forget(next(iter(self._quick)))
        if not was_quick:
            self.on_free()

    def give_back(self, destination: str) -> None:
        """Free a slot that was taken; `on_free` hears of it where that lets somebody claim who could not."""
        is_short = self._count >= self._total or min(self.spare, self.unproven_spare) <= self.per_host
        was_in_the_way = is_short or self._taken[destination] >= self.per_host
        self._count -= 1
        self._taken[destination] -= 1
        if not self._taken[destination]:
            del self._taken[destination]
        self._unproven_count -= destination not in self._quick
        if was_in_the_way:
            self.on_free()

    def close(self) -> None:
        """Let nothing more be claimed."""
        self._closed = True

    def _forget(self, destination: str) -> None:
        if destination in self._quick:
            del self._quick[destination]
            self._unproven_count += self._taken[destination]

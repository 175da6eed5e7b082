"""How many attempts may be in flight: in all, and to one host, so that no slow host takes what others need."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping


class Slots:
    """A count per host under two caps. Whoever decides what to claim holds `claiming` from taking to commit."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = total
        self.per_host = per_host
        self._taken: Counter[str] = Counter()
        self._count = 0
        self._closed = False
        self.claiming = asyncio.Lock()
        self.on_free: Callable[[], None] = lambda: None

    @property
    def free(self) -> int:
        """How many attempts more may be claimed, over all hosts; none once closed."""
        return 0 if self._closed else self._total - self._count

    @property
    def taken(self) -> Mapping[str, int]:
        """The hosts with attempts in flight, and how many."""
        return self._taken

    def take(self, host: str) -> bool:
        """Take a slot if there is one, closed or not: what was claimed before the close must find its own."""
        if self._count >= self._total or self._taken.get(host, 0) >= self.per_host:
            return False
        self._taken[host] += 1
        self._count += 1
        return True

    def give_back(self, host: str) -> None:
        """Free a slot that was taken."""
        self._count -= 1
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]
        self.on_free()

    def close(self) -> None:
        """Let nothing more be claimed."""
        self._closed = True

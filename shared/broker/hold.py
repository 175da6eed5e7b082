"""What one consumer holds unacknowledged, what of it may be taken when, and since when nothing was settled. Pure.

A message that was delivered often in vain may kill whoever handles it: such suspects are kept back until `Care`
releases them.
"""

import random
from collections import deque
from collections.abc import Collection

from shared.messages import Inbound

# A few restarts, or a deployment, are no sign that a message kills, and care costs the order: a charger's next session
# could come before the end of its last. What is on its way when a consumer is cancelled comes back and is counted, too.
SUSPECT_AFTER_DELIVERIES = 8
# Longer than any batch takes that is not waiting for something; readiness must say so within 30 s.
STUCK_AFTER_S = 20.0


class Hold:
    """The messages of one channel. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._ready: deque[Inbound] = deque()
        self._suspects: list[Inbound] = []
        self._unsettled: set[int] = set()
        self._waiting_since_s = 0.0
        self.has_settled = False

    def arrived(self, inbound: Inbound, now_s: float) -> None:
        """Note a delivery: it may be taken now, or is kept back."""
        if not self._unsettled:
            self._waiting_since_s = now_s
        self._unsettled.add(inbound.delivery_tag)
        (self._suspects if is_suspect(inbound) else self._ready).append(inbound)

    @property
    def has_ready(self) -> bool:
        """Whether anything may be taken."""
        return bool(self._ready)

    @property
    def suspect_count(self) -> int:
        """How many are kept back."""
        return len(self._suspects)

    @property
    def is_quiet(self) -> bool:
        """Whether all is settled but what is kept back."""
        return len(self._unsettled) == len(self._suspects)

    def take(self, most: int) -> tuple[Inbound, ...]:
        """Return what may be taken, up to `most`, in the order it came."""
        return tuple(self._ready.popleft() for _ in range(min(most, len(self._ready))))

    def release(self, most: int, chance: random.Random) -> int:
        """Let so many suspects be taken, at most, whichever chance tells; return how many."""
        chance.shuffle(self._suspects)
        released = self._suspects[:most]
        del self._suspects[:most]
        self._ready.extend(released)
        return len(released)

    def covers_all_before(self, tags: Collection[int]) -> bool:
        """Whether nothing else is unsettled up to the last of these tags, so that one ack by prefix does for them."""
        last = max(tags)
        return not any(tag < last for tag in self._unsettled.difference(tags))

    def settled(self, tags: Collection[int], now_s: float) -> None:
        """Note that these are acknowledged."""
        self._unsettled.difference_update(tags)
        self._waiting_since_s = now_s
        self.has_settled = True

    def fault(self, now_s: float) -> str | None:
        """Return a word where messages are held and none was settled for too long, or None."""
        count, age_s = len(self._unsettled), now_s - self._waiting_since_s
        return f"{count} messages held, none settled for {age_s:.0f} s" if count and age_s > STUCK_AFTER_S else None


def is_suspect(inbound: Inbound) -> bool:
    """Whether the broker delivered it so often to somebody who did not settle it."""
    count = inbound.message.headers.get("x-delivery-count")
    return inbound.redelivered and isinstance(count, int) and count >= SUSPECT_AFTER_DELIVERIES

"""What one consumer holds unacknowledged: how much it may, and since when nothing of it was settled. Pure.

A message that was delivered often in vain may kill whoever holds it, and each time all that is held beside it comes
closer to the delivery limit. So a consumer begins with one message, and holds more as what it held did no harm.
"""

from shared.messages import Inbound

# One restart of a worker, or two in a rolling deployment, is no sign that a message kills.
SUSPECT_AFTER_DELIVERIES = 2
# Longer than any batch takes that is not waiting for something; readiness must say so within 30 s.
STUCK_AFTER_S = 20.0


class Hold:
    """The messages of one channel, whose delivery tags count from 1. Times are seconds of any one clock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = 1
        self._newest_tag = self._settled_tag = self._grown_at_tag = 0
        self._is_fresh = False
        self._waiting_since_s = 0.0

    def arrived(self, inbound: Inbound, now_s: float) -> None:
        """Note a delivery."""
        if self._newest_tag == self._settled_tag:
            self._waiting_since_s = now_s
        self._newest_tag = inbound.delivery_tag
        self._is_fresh = self._is_fresh or not is_suspect(inbound)

    def settled(self, tag: int, now_s: float) -> None:
        """Note that everything up to this delivery tag is acknowledged."""
        self._settled_tag = max(self._settled_tag, tag)
        self._waiting_since_s = now_s

    @property
    def has_settled(self) -> bool:
        """Whether anything was acknowledged."""
        return self._settled_tag > 0

    def grow(self) -> int:
        """Return how many more may be held from now on: all once one came that is no suspect, as nothing older is left.

        Until then as many again as were settled since the last time: what kills its holder is soon held alone, and a
        thousand suspects that do no harm cost a dozen steps.
        """
        room = self._most - self.allowed
        if self._is_fresh:
            more = room
        elif self._settled_tag - self._grown_at_tag >= self.allowed:
            more = min(room, self.allowed)
        else:
            return 0
        self._grown_at_tag = self._settled_tag
        self.allowed += more
        return more

    def fault(self, now_s: float) -> str | None:
        """Return a word where messages are held and none was settled for too long, or None."""
        count, age_s = self._newest_tag - self._settled_tag, now_s - self._waiting_since_s
        return f"{count} messages held, none settled for {age_s:.0f} s" if count and age_s > STUCK_AFTER_S else None


def is_suspect(inbound: Inbound) -> bool:
    """Whether the message was delivered so often that it may be what killed its holders."""
    count = inbound.message.headers.get("x-delivery-count")
    return inbound.redelivered and isinstance(count, int) and count >= SUSPECT_AFTER_DELIVERIES

"""Which routes a publishing channel refuses, and since when: pure. A route is an exchange and a routing key.

RabbitMQ tells a channel once that a quorum queue is full, and once that it has room again. The second word does not
come when the limit itself is lifted (3.10): the channel goes on refusing what a new channel would take.
"""

from dataclasses import dataclass

Route = tuple[str, str]

# A queue that is full for a moment has room again by itself; callers shall not hear of it much longer than that.
FIRST_S = 2.0
# A channel more every quarter of a minute costs nothing, so a queue that is full for days may be tried for days.
MOST_S = 15.0


@dataclass(slots=True)
class _Refusal:
    since_s: float | None
    channel_count: int = 0


class Refusals:
    """The routes that were refused and not taken since. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._refused: dict[Route, _Refusal] = {}

    def refused(self, route: Route, now_s: float) -> None:
        """Note a refusal."""
        refusal = self._refused.setdefault(route, _Refusal(now_s))
        if refusal.since_s is None:
            refusal.since_s = now_s

    def taken(self, route: Route) -> None:
        """Note that the broker has taken a message: its queue has room."""
        self._refused.pop(route, None)

    def want_new_channel(self, now_s: float) -> bool:
        """Whether this channel has refused a route for long; longer with each channel that did so before it."""
        return any(
            refusal.since_s is not None and now_s - refusal.since_s >= min(MOST_S, FIRST_S * 2**refusal.channel_count)
            for refusal in self._refused.values()
        )

    def begin_channel(self) -> None:
        """Note that there is a new channel, which has refused nothing yet."""
        for refusal in self._refused.values():
            if refusal.since_s is not None:
                refusal.since_s, refusal.channel_count = None, min(refusal.channel_count + 1, 16)

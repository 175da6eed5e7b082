"""A process's care with messages that may kill it: of all that its consumers hold, one suspect is tried at a time.

A death brings all that the process holds closer to the delivery limit. So while a suspect is here no consumer takes
anything new, and all else is settled first. Then suspects are tried in random order over all queues: half of those that
do no harm are settled before the one that kills, and nobody stands behind it for ever.
"""

import asyncio
import random
from collections.abc import Callable

from shared.broker.hold import Hold

# After so many suspects that did no harm one more is tried at a time: five hundred cost some 65 batches.
SUSPECTS_PER_STEP = 16


class Care:
    """What the consumers of a process hold, each on a channel of its own."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        # Whether the broker sends nothing more there, and knows of every settlement.
        self._resting: dict[Hold, bool] = {}
        self._tried_in: Hold | None = None
        self._harmless_count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def begin(self, hold: Hold) -> None:
        """A channel opens, or takes new messages again."""
        self._resting[hold] = False

    def end(self, hold: Hold) -> None:
        """A channel is gone, and what it held with it."""
        self._resting.pop(hold, None)
        self._tried_in = None if self._tried_in is hold else self._tried_in
        self._release()

    def rest(self, hold: Hold) -> None:
        """Nothing is in hand there, nothing new will come, and the broker knows of every settlement."""
        self._resting[hold] = True
        self._tried_in = None if self._tried_in is hold else self._tried_in
        self._release()

    def note(self) -> None:
        """Something has arrived, or was settled: let those look who wait for it."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    @property
    def is_needed(self) -> bool:
        """Whether a suspect is here, kept back or tried: nobody may take anything new."""
        return self._tried_in is not None or bool(self._suspicious())

    def tries(self, hold: Hold) -> bool:
        """Whether a suspect of this one is being tried."""
        return self._tried_in is hold

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once it holds."""
        while not condition():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def _release(self) -> None:
        """Let a suspect be taken once every channel rests; more at a time as they do no harm."""
        holds = self._suspicious()
        if not holds:
            self._harmless_count = 0
        elif self._tried_in is None and all(self._resting.values()):
            (hold,) = self._chance.choices(holds, [each.suspect_count for each in holds])
            self._harmless_count += hold.release(1 + self._harmless_count // SUSPECTS_PER_STEP, self._chance)
            self._tried_in = hold
        self.note()

    def _suspicious(self) -> list[Hold]:
        return [hold for hold in self._resting if hold.suspect_count]

"""One log line a second for each kind of failed publish: an outage must not become a flood of lines."""

import time
from collections import Counter

from shared.broker.publisher import Outcome
from shared.logs import get_logger
from shared.messages import Message

log = get_logger(__name__)

INTERVAL_S = 1.0


class FaultLog:
    """Names the first message of each interval and counts those since the last line. Metrics count them all."""

    def __init__(self) -> None:
        self._logged_at: dict[Outcome, float] = {}
        self._counts: Counter[Outcome] = Counter()

    def note(self, outcome: Outcome, message: Message) -> None:
        self._counts[outcome] += 1
        now = time.monotonic()
        if now - self._logged_at.get(outcome, -INTERVAL_S) < INTERVAL_S:
            return
        log.warning(
            "command_not_acknowledged",
            outcome=outcome,
            count=self._counts.pop(outcome),
            message_id=message.message_id,
            type=message.type,
            answered=503,
        )
        self._logged_at[outcome] = now

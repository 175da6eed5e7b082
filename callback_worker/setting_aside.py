"""Dead letters of the callback worker's queues: published until the broker has them all."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from callback_worker import metrics
from shared.broker.connection import backoff_s
from shared.broker.dead_letters import dead_letter
from shared.broker.publisher import Outcome, Publisher
from shared.errors import Rejected, Unavailable
from shared.logs import get_logger
from shared.messages import Inbound

log = get_logger(__name__)

NAME = "callback_worker"
DEAD_LETTER_TIMEOUT_S = 10.0

Rejects = list[tuple[Inbound, Rejected]]


async def set_aside(
    publisher: Publisher,
    queue: str,
    rejects: Sequence[tuple[Inbound, Rejected]],
    *,
    wanted: Callable[[], bool],
    clock: Callable[[], datetime],
) -> None:
    """Return once the broker has them all: only then may their batch be acknowledged.

    Raises Unavailable once that is not `wanted` any more.
    """
    failures, left = 0, list(rejects)
    while left:
        letters = [dead_letter(inbound, queue, rejected, failed_by=NAME, now=clock()) for inbound, rejected in left]
        outcomes = await publisher.publish(letters, timeout_s=DEAD_LETTER_TIMEOUT_S)
        for reject, outcome in zip(left, outcomes, strict=True):
            if outcome is Outcome.CONFIRMED:
                _tell(*reject)
        left = [reject for reject, outcome in zip(left, outcomes, strict=True) if outcome is not Outcome.CONFIRMED]
        if not left:
            return
        failures += 1
        log.warning("dead_letters_wait", messages=len(left), outcomes=sorted({str(each) for each in outcomes}))
        await asyncio.sleep(backoff_s(failures, random.random()))
        if not wanted():
            raise Unavailable("the dead letters could not be published")


def _tell(inbound: Inbound, rejected: Rejected) -> None:
    metrics.dead_letter_count(str(rejected.code)).inc()
    log.warning("dead_lettered", message_id=inbound.message.message_id, code=str(rejected.code))

"""Once a second: ask the time, look which hosts fail, and end what has expired, whether or not it may be sent."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from callback_worker import metrics
from callback_worker.delivery import Outcome
from callback_worker.hosts import Hosts
from callback_worker.patience import Patience
from callback_worker.store import abandon
from shared.callbacks import Reason
from shared.failures import log_failure
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

# An open host that another worker knows of, or a delivery that expires, is noticed this late; either costs one query.
EVERY_S = 1.0
# Some ten milliseconds of work and as many locks; after an outage that is longer than the expiry there may be many.
EXPIRED_MOST = 1000

_EXPIRE = text("""
    WITH expired AS (
        SELECT id, "leasedUntil" IS NOT NULL AS "isAbandoned" FROM callback_deliveries
        WHERE state = 'PENDING' AND "expiresAt" <= :now
            AND ("leasedUntil" IS NULL OR (CAST(:takes_over AS boolean) AND "leasedUntil" <= :now))
            AND id <> ALL (CAST(:in_hand AS uuid[]))
        ORDER BY "expiresAt" LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE callback_deliveries AS d
    SET state = 'FAILED', reason = 'expired', "nextAttemptAt" = NULL, "leasedUntil" = NULL
    FROM expired WHERE d.id = expired.id
    RETURNING d.id, expired."isAbandoned" """)


class Upkeep:
    """The loop. `in_hand` is what this worker has not written the results of."""

    def __init__(
        self,
        patience: Patience,
        *,
        hosts: Hosts,
        in_hand: Callable[[], Collection[UUID]],
        clock: Callable[[], datetime],
        ask_time: Callable[[], Awaitable[None]],
    ) -> None:
        self._patience = patience
        self._hosts = hosts
        self._in_hand = in_hand
        self._clock = clock
        self._ask_time = ask_time
        self.turns = Turns("upkeep")

    async def run(self) -> None:
        """Keep up until cancelled."""
        while True:
            try:
                with self.turns.turn():
                    await self._patience.until_done(self.run_once, what="upkeep", wanted=lambda: True)
            except Exception as error:  # the edge of a loop that must not end: the next turn tries again
                log_failure("upkeep_failed", error)
            await asyncio.sleep(EVERY_S)

    async def run_once(self) -> int:
        """Look at the hosts, and end all that has expired, some at a time, by the time of now; return how many."""
        await self._ask_time()
        async with self._patience.engine.begin() as tx:
            await self._hosts.refresh(tx, self._clock())
        count = 0
        while (ended := await self._expire()) == EXPIRED_MOST:
            count += ended
            await self._ask_time()
        return count + ended

    async def _expire(self) -> int:
        parameters = {
            "now": self._clock(),
            "takes_over": not self._patience.is_settling(),
            "in_hand": list(self._in_hand()),
            "most": EXPIRED_MOST,
        }
        async with self._patience.engine.begin() as tx:
            ended = (await tx.execute(_EXPIRE, parameters)).all()
            abandoned = [row.id for row in ended if row.isAbandoned]
            await abandon(tx, abandoned)
        for _ in abandoned:
            metrics.attempt_count(str(Outcome.AMBIGUOUS)).inc()
        for row in ended:
            metrics.delivery_count(str(Reason.EXPIRED)).inc()
            log.warning("delivery_failed", callback_id=str(row.id), reason=str(Reason.EXPIRED))
        return len(ended)

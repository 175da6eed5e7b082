"""The loop over event messages: take a batch, make deliveries of it, acknowledge it, send.

Killed before the commit: the messages come again. Between commit and ack: they come again and the rows are there.
After the commit: the leases end and any worker takes over. While Postgres hangs: the batch stays unacknowledged and is
retried here; requeueing would use up the delivery limit.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from callback_worker import metrics
from callback_worker.birth import Births, Owed
from callback_worker.dispatch import Dispatcher
from callback_worker.patience import Turns, first_line, until_done
from shared.broker.connection import backoff_s
from shared.broker.consumer import Batch, Consumer
from shared.broker.dead_letters import dead_letter
from shared.broker.publisher import Outcome, Publisher
from shared.errors import RejectCode, Rejected, Unavailable
from shared.events import parse_event
from shared.logs import get_logger
from shared.messages import Inbound
from shared.topology import CALLBACK_EVENTS

log = get_logger(__name__)

NAME = "callback_worker"
# Most of the gain of any size comes with 50; above 250 one bad message makes too many others be redone.
BATCH_MOST = 250
# Four batches, so that the next one is full when the last one commits.
PREFETCH = 1000
DEAD_LETTER_TIMEOUT_S = 10.0


class Intake:
    """Handles `callback_worker.events` until the consumer is stopped."""

    def __init__(
        self,
        consumer: Consumer,
        publisher: Publisher,
        *,
        births: Births,
        dispatcher: Dispatcher,
        drain: asyncio.Event,
        clock: Callable[[], datetime],
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._births = births
        self._dispatcher = dispatcher
        self._drain = drain
        self._clock = clock
        self.turns = Turns("a batch of events")

    async def run(self) -> None:
        """Handle batch after batch; return once the consumer has stopped."""
        while (batch := await self._consumer.take(BATCH_MOST)) is not None:
            with self.turns.turn():
                try:
                    await self._settle(batch)
                except Unavailable as error:
                    next_step = "the broker delivers them again"
                    log.warning("batch_abandoned", messages=len(batch.messages), reason=str(error), next=next_step)

    async def _settle(self, batch: Batch) -> None:
        owed: list[tuple[Inbound, Owed]] = []
        for inbound in batch.messages:
            try:
                found = _owed(inbound)
            except Rejected as rejected:
                await self._set_aside(batch, inbound, rejected)
            else:
                owed += [] if found is None else [(inbound, found)]
        if owed:
            await self._register(batch, owed)
        await batch.ack()

    async def _register(self, batch: Batch, owed: Sequence[tuple[Inbound, Owed]]) -> None:
        """Register all in one transaction; where that fails for a reason of its own, each alone."""
        try:
            await self._register_and_send(batch, [each for _, each in owed])
        except Unavailable:
            raise
        except Exception as error:  # no outage: one of them cannot be stored; it must hurt only itself
            log.warning("batch_failed", messages=len(owed), reason=first_line(error), next="each alone")
            await self._register_each(batch, owed)

    async def _register_each(self, batch: Batch, owed: Sequence[tuple[Inbound, Owed]]) -> None:
        for inbound, each in owed:
            try:
                await self._register_and_send(batch, [each])
            except Unavailable:
                raise
            except Exception as error:  # as above
                await self._set_aside(batch, inbound, Rejected(RejectCode.UNPROCESSABLE, first_line(error)))

    async def _register_and_send(self, batch: Batch, owed: Sequence[Owed]) -> None:
        attempts = await until_done(
            lambda: self._births.register(owed, self._clock), what="events", wanted=lambda: self._is_wanted(batch)
        )
        # They are open in the database now, so they are made even if the acknowledgement should fail.
        self._dispatcher.start(attempts)

    async def _set_aside(self, batch: Batch, inbound: Inbound, rejected: Rejected) -> None:
        """Publish the dead letter until the broker has it; only then may the message be acknowledged."""
        letter = dead_letter(inbound, CALLBACK_EVENTS, rejected, failed_by=NAME, now=self._clock())
        failures = 0
        while True:
            [outcome] = await self._publisher.publish([letter], timeout_s=DEAD_LETTER_TIMEOUT_S)
            if outcome is Outcome.CONFIRMED:
                break
            failures += 1
            log.warning("dead_letter_waits", outcome=str(outcome), code=str(rejected.code))
            await asyncio.sleep(backoff_s(failures, random.random()))
            if not self._is_wanted(batch):
                raise Unavailable("the dead letter could not be published")
        metrics.dead_letter_count(str(rejected.code)).inc()
        log.warning("dead_lettered", message_id=inbound.message.message_id, code=str(rejected.code))

    def _is_wanted(self, batch: Batch) -> bool:
        """Whether waiting for an outage's end still serves: not once the broker hands the messages to others."""
        return batch.is_live and not self._drain.is_set()


def _owed(inbound: Inbound) -> Owed | None:
    """Return what a message owes to whom; None where nobody wants to hear of it. Raises Rejected."""
    if inbound.unreadable is not None:
        raise Rejected(RejectCode.UNREADABLE_PROPERTIES, "the AMQP properties cannot be decoded")
    event = parse_event(inbound)
    return None if event.callback_url is None else Owed(event, event.callback_url)

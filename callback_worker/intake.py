"""The loop over event messages: take a batch, make deliveries of it, acknowledge it, send.

Killed before the commit: the messages come again. Between commit and ack: they come again and the rows are there.
After the commit: the leases end and any worker takes over. While Postgres hangs: the batch stays unacknowledged and is
retried here; requeueing would use up the delivery limit.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from callback_worker.birth import Births
from callback_worker.dispatch import Dispatcher
from callback_worker.setting_aside import Rejects, set_aside
from shared import crash_points
from shared.broker.connection import backoff_s
from shared.broker.consumer import Batch, Consumer
from shared.broker.publisher import Publisher
from shared.errors import RejectCode, Rejected, Unavailable
from shared.events import ReceivedEvent, parse_event
from shared.failures import log_failure, reason_of
from shared.logs import get_logger
from shared.loops import Turns
from shared.messages import Inbound
from shared.topology import CALLBACK_EVENTS

log = get_logger(__name__)

# Most of the gain of any size comes with 50; above 250 one bad message makes too many others be redone.
BATCH_MOST = 250
# Four batches, so that the next one is full when the last one commits.
PREFETCH = 1000
# As in the session worker: what fails for a passing reason succeeds at the second try, and a third is for luck.
TRIES_ALONE = 3

Understood = list[tuple[Inbound, ReceivedEvent]]


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
                    if batch.is_live:  # so it is a drain; the ack of any later batch would cover this one
                        return

    async def _settle(self, batch: Batch) -> None:
        """Send what is good first: it must not wait for the dead letters of its neighbours."""
        events, rejects = _sort(batch.messages)
        if events:
            rejects += await self._register(batch, events)
        if rejects:
            await set_aside(
                self._publisher,
                CALLBACK_EVENTS,
                rejects,
                wanted=lambda: self._is_wanted(batch),
                clock=self._clock,
            )
        await batch.ack()

    async def _register(self, batch: Batch, events: Understood) -> Rejects:
        """Register all in one transaction; where that fails for a reason of its own, each alone."""
        try:
            await self._register_and_send(batch, [each for _, each in events])
        except Unavailable:
            raise
        except Exception as error:  # no outage: one of them cannot be stored; it must hurt only itself
            log.warning("batch_failed", messages=len(events), reason=reason_of(error), next="each alone")
            return await self._register_each(batch, events)
        return []

    async def _register_each(self, batch: Batch, events: Understood) -> Rejects:
        """One transaction a message, in rounds over those that fail; return what failed in the last."""
        failed: list[tuple[Inbound, ReceivedEvent, Exception]] = []
        for tries in range(1, TRIES_ALONE + 1):
            left, failed = events if tries == 1 else [(inbound, each) for inbound, each, _ in failed], []
            for inbound, each in left:
                try:
                    await self._register_and_send(batch, [each])
                except Unavailable:
                    raise
                except Exception as error:  # as above
                    failed.append((inbound, each, error))
            if failed and tries < TRIES_ALONE:
                await asyncio.sleep(backoff_s(tries, random.random()))
        return [(inbound, Rejected(RejectCode.UNPROCESSABLE, reason_of(error))) for inbound, _, error in failed]

    async def _register_and_send(self, batch: Batch, events: Sequence[ReceivedEvent]) -> None:
        crash_points.reach("callback_worker.before_register", (event.event_id for event in events))
        attempts = await self._births.register(events, self._clock, wanted=lambda: self._is_wanted(batch))
        # They are open in the database now, so they are made even if the acknowledgement should fail.
        self._dispatcher.start(attempts)

    def _is_wanted(self, batch: Batch) -> bool:
        """Whether waiting for an outage's end still serves: not once the broker hands the messages to others."""
        return batch.is_live and not self._drain.is_set()


def _sort(messages: Sequence[Inbound]) -> tuple[Understood, Rejects]:
    """Return what can be understood, and what cannot with the reason; total over any message."""
    understood, rejects = Understood(), Rejects()
    for inbound in messages:
        try:
            event = _event(inbound)
        except Rejected as rejected:
            rejects.append((inbound, rejected))
        except Exception as error:  # a fault of ours; one message must not stop the queue
            log_failure("event_unreadable", error, message_id=inbound.message.message_id)
            rejects.append((inbound, Rejected(RejectCode.UNPROCESSABLE, f"reading it failed: {type(error).__name__}")))
        else:
            understood.append((inbound, event))
    return understood, rejects


def _event(inbound: Inbound) -> ReceivedEvent:
    """Return the event of a message. Raises Rejected."""
    if inbound.unreadable is not None:
        raise Rejected(RejectCode.UNREADABLE_PROPERTIES, "the AMQP properties cannot be decoded")
    return parse_event(inbound)

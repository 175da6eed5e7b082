"""The loop over a queue of commands: take a batch, apply it, acknowledge it, hand its events to the relay.

Killed before the commit: nothing happened, the messages come again. Between commit and ack: they come again and the
inbox knows them. Between ack and publish: the outbox has the events. While Postgres hangs: the batch stays
unacknowledged and is retried here, for ever; requeueing would use up the delivery limit.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from uuid import UUID

from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker.apply import Staged, State
from session_worker.intake import receive
from session_worker.outcomes import tell
from session_worker.relay import Relay
from session_worker.session import Received
from shared import crash_points
from shared.broker.connection import backoff_s
from shared.broker.consumer import Batch, Consumer
from shared.broker.dead_letters import dead_letter
from shared.broker.publisher import Outcome, Publisher
from shared.database import is_data_fault, is_outage, not_provisioned, ping
from shared.errors import RejectCode, Rejected
from shared.failures import log_failure, reason_of
from shared.logs import get_logger
from shared.loops import Turns
from shared.messages import Inbound

log = get_logger(__name__)

DEAD_LETTERED = Counter("voltline_dead_letters_total", "Messages set aside, by code", ["queue", "code"])
BATCH_SIZE = Histogram("voltline_batch_size", "Commands per transaction", buckets=(1, 2, 5, 10, 25, 50, 100, 250))
BATCH_SECONDS = Histogram("voltline_batch_seconds", "Time from taking a batch to its acknowledgement")

# Two thirds of the gain of any size come with 50; above 250 one bad message makes too many others be redone.
BATCH_MOST = 250
# Two batches: the next one is full when the last one commits, and a killed worker counts few deliveries.
PREFETCH = 500
DEAD_LETTER_TIMEOUT_S = 10.0
# Two workers may meet at one unique index; the second try sees the first one's row. A third is for luck.
TRIES_ALONE = 3

# Applies commands in one transaction, in which it forgets these outbox rows; tells what it decided and what to publish.
Apply = Callable[[Sequence[Received], Sequence[UUID]], Awaitable[tuple[State, Staged | None]]]


class CommandLoop:
    """Handles the commands of these types from one queue until its consumer is stopped."""

    def __init__(  # noqa: PLR0913  # what it is made of, each by its name
        self,
        consumer: Consumer,
        publisher: Publisher,
        relay: Relay,
        engine: AsyncEngine,
        *,
        types: Collection[str],
        apply: Apply,
        clock: Callable[[], datetime],
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._relay = relay
        self._engine = engine
        self._types = types
        self._apply_batch = apply
        self._clock = clock
        self.queue = consumer.queue
        self.turns = Turns(f"a batch of {consumer.queue}")

    async def run(self) -> None:
        """Handle batch after batch; returns once the consumer has stopped and the last batch is settled."""
        while (batch := await self._consumer.take(BATCH_MOST)) is not None:
            with self.turns.turn(), BATCH_SECONDS.time():
                await self._settle(batch)

    async def _settle(self, batch: Batch) -> None:
        commands, rejects = _sort(batch.messages, self._types, self._clock())
        BATCH_SIZE.observe(len(batch.messages))
        settled = await self._apply_until_done(batch, commands, rejects) if commands else True
        settled = settled and (not rejects or await self._set_aside(batch, rejects))
        if settled:
            await batch.ack()
        else:
            self.turns.fail()
            log.warning("batch_abandoned", messages=len(batch.messages), next="the broker delivers them again")

    def _keeps_trying(self, batch: Batch) -> bool:
        """A batch of a dead channel comes again by itself; in a drain the broker hands it to another worker."""
        return batch.is_live and not self._consumer.is_stopped

    async def _apply_until_done(
        self, batch: Batch, commands: Sequence[tuple[Inbound, Received]], rejects: list[tuple[Inbound, Rejected]]
    ) -> bool:
        """Apply all in one transaction; where that fails for a reason of its own, each alone; in an outage, later.

        Returns whether all were applied, or added to `rejects`. What was applied of a batch that is given up is known
        to the inbox when it comes again.
        """
        failures = 0
        while True:
            try:
                await self._apply([received for _, received in commands])
                return True
            except Exception as error:  # sorted here; only what is nobody's outage goes on to the dead letters
                failures += 1
                if not await self._may_pass(error):
                    log.warning("batch_failed", messages=len(commands), reason=reason_of(error), next="each alone")
                    return await self._apply_each(batch, commands, rejects)
                if not await self._waits(batch, failures, error):
                    return False

    async def _apply_each(
        self, batch: Batch, commands: Sequence[tuple[Inbound, Received]], rejects: list[tuple[Inbound, Rejected]]
    ) -> bool:
        """One transaction a message, so that a bad one hurts only itself: after some tries it is rejected."""
        for inbound, received in commands:
            failures = faults = 0
            while True:
                try:
                    await self._apply([received])
                    break
                except Exception as error:  # as above
                    failures += 1
                    faults += not await self._may_pass(error)
                    if faults >= TRIES_ALONE:
                        log_failure("command_unprocessable", error, message_id=str(received.message_id))
                        rejects.append((inbound, Rejected(RejectCode.UNPROCESSABLE, reason_of(error))))
                        break
                    if not await self._waits(batch, failures, error):
                        return False
        return True

    async def _waits(self, batch: Batch, failures: int, error: Exception) -> bool:
        """Wait before the next try; return False when there is none."""
        if not self._keeps_trying(batch):
            return False
        delay_s = backoff_s(failures, random.random())
        log.warning("batch_waits", messages=len(batch.messages), reason=reason_of(error), retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)
        return True

    async def _may_pass(self, error: Exception) -> bool:
        """Whether the same transaction may succeed later, with no help from the message.

        An error that nobody foresaw is the message's only if the database answers otherwise.
        """
        if is_outage(error) or not_provisioned(error) is not None:
            return True
        if is_data_fault(error):
            return False
        try:
            await ping(self._engine)
        except Exception:  # whatever it is, it is not the message
            return True
        return False

    async def _apply(self, commands: Sequence[Received]) -> None:
        """Apply and commit; then hand on the events."""
        published = self._relay.take_done()
        try:
            state, staged = await self._apply_batch(commands, published)
        except BaseException:
            self._relay.give_back(published)
            raise
        crash_points.reach("session_worker.between_commit_and_ack")
        tell(state.handled)
        if staged is not None:
            await self._relay.submit(staged)

    async def _set_aside(self, batch: Batch, rejects: Sequence[tuple[Inbound, Rejected]]) -> bool:
        """Publish the dead letters until the broker has them all; only then may the batch be acknowledged."""
        left, failures = list(rejects), 0
        while True:
            letters = [
                dead_letter(inbound, self._consumer.queue, rejected, failed_by="session_worker", now=self._clock())
                for inbound, rejected in left
            ]
            outcomes = await self._publisher.publish(letters, timeout_s=DEAD_LETTER_TIMEOUT_S)
            for (inbound, rejected), outcome in zip(left, outcomes, strict=True):
                if outcome is Outcome.CONFIRMED:
                    DEAD_LETTERED.labels(self._consumer.queue, str(rejected.code)).inc()
                    log.warning("dead_lettered", message_id=inbound.message.message_id, code=str(rejected.code))
            left = [each for each, outcome in zip(left, outcomes, strict=True) if outcome is not Outcome.CONFIRMED]
            if not left:
                return True
            if not self._keeps_trying(batch):
                return False
            failures += 1
            log.warning("dead_letters_wait", letters=len(left), outcomes=sorted({str(each) for each in outcomes}))
            await asyncio.sleep(backoff_s(failures, random.random()))


def _sort(
    messages: Sequence[Inbound], types: Collection[str], now: datetime
) -> tuple[list[tuple[Inbound, Received]], list[tuple[Inbound, Rejected]]]:
    """Return what can be understood, and what cannot with the reason."""
    commands: list[tuple[Inbound, Received]] = []
    rejects: list[tuple[Inbound, Rejected]] = []
    for inbound in messages:
        try:
            commands.append((inbound, receive(inbound, now, types)))
        except Rejected as rejected:
            rejects.append((inbound, rejected))
        except Exception as error:  # a fault of ours; the message is set aside and its neighbours flow
            log_failure("message_unreadable", error, message_id=inbound.message.message_id)
            rejects.append((inbound, Rejected(RejectCode.UNPROCESSABLE, type(error).__name__)))
    return commands, rejects

"""The loop over commands about callbacks: apply each in a transaction of its own, then acknowledge.

They are few: people and subscribers ask, not sessions. Killed before a commit, the message comes again; killed before
the ack, too, and the inbox knows it. While Postgres hangs, the batch stays unacknowledged and is retried here.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from callback_worker import metrics
from callback_worker.apply import Handled, Received, apply
from callback_worker.patience import Patience
from callback_worker.redeliveries import Redeliveries
from callback_worker.setting_aside import Rejects, set_aside
from shared.broker.connection import backoff_s
from shared.broker.consumer import Batch, Consumer
from shared.broker.publisher import Publisher
from shared.callback_commands import Redeliver, parse_callback_command
from shared.callbacks import ANONYMOUS
from shared.commands import CLIENT, PRIVILEGED, body_hash
from shared.errors import RejectCode, Rejected, Unavailable
from shared.failures import log_failure, reason_of
from shared.ids import minted_at
from shared.logs import get_logger
from shared.loops import Turns
from shared.messages import Inbound
from shared.topology import CALLBACK_COMMANDS

log = get_logger(__name__)

# Each is a transaction of some milliseconds, so a batch is over well before readiness calls it stuck.
BATCH_MOST = 50
PREFETCH = 100
# What fails for a passing reason succeeds at the second try, and a third is for luck.
TRIES = 3


class CommandLoop:
    """Handles `callback_worker.commands` until the consumer is stopped; `redeliveries` is woken for new ones."""

    def __init__(  # noqa: PLR0913 - what it is made of, each by its name
        self,
        consumer: Consumer,
        publisher: Publisher,
        patience: Patience,
        *,
        redeliveries: Redeliveries,
        drain: asyncio.Event,
        clock: Callable[[], datetime],
        remembered_days: int,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._patience = patience
        self._redeliveries = redeliveries
        self._drain = drain
        self._clock = clock
        self._remembered_days = remembered_days
        self.turns = Turns("a batch of commands")

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
        rejects = Rejects()
        for inbound in batch.messages:
            try:
                await self._handle(batch, _receive(inbound))
            except Rejected as rejected:
                rejects.append((inbound, rejected))
        if rejects:
            await set_aside(
                self._publisher,
                CALLBACK_COMMANDS,
                rejects,
                wanted=lambda: self._is_wanted(batch),
                clock=self._clock,
            )
        await batch.ack()

    async def _handle(self, batch: Batch, received: Received) -> None:
        """Apply it; raise Rejected where that fails every time and nobody's outage is to blame."""
        for tries in range(1, TRIES + 1):
            try:
                handled = await self._patience.until_done(
                    lambda: self._apply(received), what="commands", wanted=lambda: self._is_wanted(batch)
                )
            except Unavailable:
                raise
            except Exception as error:  # no outage: its own fault, or a passing one
                if tries == TRIES:
                    log_failure("command_unprocessable", error, message_id=str(received.message_id))
                    raise Rejected(RejectCode.UNPROCESSABLE, reason_of(error)) from error
                await asyncio.sleep(backoff_s(tries, random.random()))
            else:
                _tell(received, handled)
                if isinstance(received.command, Redeliver) and handled.refusal is None:
                    self._redeliveries.wake()
                return

    async def _apply(self, received: Received) -> Handled:
        async with self._patience.engine.begin() as tx:
            return await apply(
                tx,
                received,
                now=self._clock(),
                keep_for=self._redeliveries.keep_for,
                remembered_days=self._remembered_days,
            )

    def _is_wanted(self, batch: Batch) -> bool:
        """Whether waiting for an outage's end still serves: not once the broker hands the messages to others."""
        return batch.is_live and not self._drain.is_set()


def _receive(inbound: Inbound) -> Received:
    """Return the command of a message; total over any message. Raises Rejected."""
    try:
        return _understood(inbound)
    except Rejected:
        raise
    except Exception as error:  # a fault of ours; one message must not stop the queue
        log_failure("command_unreadable", error, message_id=inbound.message.message_id)
        raise Rejected(RejectCode.UNPROCESSABLE, f"reading it failed: {type(error).__name__}") from error


def _understood(inbound: Inbound) -> Received:
    message = inbound.message
    if inbound.unreadable is not None:
        raise Rejected(RejectCode.UNREADABLE_PROPERTIES, "the AMQP properties cannot be decoded")
    command = parse_callback_command(message.body, message.type or inbound.routing_key)
    try:
        message_id = UUID(message.message_id or "")
    except ValueError as error:
        raise Rejected(RejectCode.NO_MESSAGE_ID, "the property message_id must be a UUID") from error
    client = message.headers.get(CLIENT)
    return Received(
        command=command,
        message_id=message_id,
        body_hash=body_hash(command),
        client=client if isinstance(client, str) and client else ANONYMOUS,
        # Only the gateway and operators may publish here; what does not say otherwise is an operator's.
        privileged=message.headers.get(PRIVILEGED) is not False,
        minted_at=minted_at(message_id) or message.timestamp,
    )


def _tell(received: Received, handled: Handled) -> None:
    outcome = "repeated" if handled.is_repeated else "applied" if handled.refusal is None else "refused"
    metrics.command_count(received.command.TYPE, outcome, str(handled.refusal or "")).inc()
    say = log.info if handled.refusal is not None else log.debug
    say(
        "command_handled",
        type=received.command.TYPE,
        message_id=str(received.message_id),
        client=received.client,
        outcome=outcome,
        reason=str(handled.refusal or ""),
    )

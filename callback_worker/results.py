"""Writes the results of attempts in natural batches; through an outage they wait here, within a limit."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from callback_worker import metrics
from callback_worker.delivery import Attempt, Result, Terms, next_state
from callback_worker.gone import end_after, tell_gone
from callback_worker.hosts import Change, Hosts, release_probes
from callback_worker.patience import Patience
from callback_worker.redelivery_store import close_redeliveries
from callback_worker.store import Closing, close_attempts, give_back
from shared.callbacks import State
from shared.failures import log_failure, reason_of
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

# As with events: most of the gain comes with 50.
BATCH_MOST = 250
# Each holds up to 16 KiB of a response; with this many unwritten nothing more is claimed.
UNWRITTEN_MOST = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch of results changed: deliveries closed, those of them and others that are gone, hosts."""

    closed: set[UUID]
    gone: set[UUID]
    hosts: list[Change]


class Results:
    """The results of attempts that are not in the database yet. `on_retry` learns when something more may be sent."""

    def __init__(
        self,
        patience: Patience,
        terms: Terms,
        *,
        hosts: Hosts,
        clock: Callable[[], datetime],
        on_retry: Callable[[datetime], None],
    ) -> None:
        self._patience = patience
        self._terms = terms
        self._hosts = hosts
        self._clock = clock
        self._on_retry = on_retry
        self._waiting: deque[Closing] = deque()
        self._unmade: list[Attempt] = []
        self._arrived = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self.unwritten: set[UUID] = set()
        self.turns = Turns("writing results")
        metrics.unwritten.set_function(lambda: len(self.unwritten))

    def room(self) -> int:
        """Return how many results more may be waited for."""
        return UNWRITTEN_MOST - len(self.unwritten)

    def put(self, attempt: Attempt, result: Result) -> None:
        """Take a result; what it makes of the delivery is decided now, so that waiting does not delay the retry."""
        following = next_state(attempt, result, self._terms.schedule_s, now=self._clock(), chance=random.random())
        self._waiting.append(Closing(attempt, result, following))
        self._note_arrival(attempt)

    def put_back(self, attempt: Attempt) -> None:
        """Take an attempt that was claimed and not made: its claim is undone."""
        self._unmade.append(attempt)
        self._note_arrival(attempt)

    async def written(self) -> None:
        """Wait until every result is in the database."""
        await self._written.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._arrived.wait()
            with self.turns.turn():
                await self.run_once()

    async def run_once(self) -> int:
        """Write what waits, up to a batch; return how many."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MOST))]
        unmade, self._unmade = self._unmade, []
        if not self._waiting:
            self._arrived.clear()
        if unmade:
            await self._undo(unmade)
        for part in _parts(batch):
            await self._write(part)
        done = [closing.attempt for closing in batch] + unmade
        self.unwritten.difference_update(attempt.callback_id for attempt in done)
        if not self.unwritten:
            self._written.set()
        return len(done)

    def _note_arrival(self, attempt: Attempt) -> None:
        self.unwritten.add(attempt.callback_id)
        self._written.clear()
        self._arrived.set()

    async def _undo(self, unmade: Sequence[Attempt]) -> None:
        async def write() -> None:
            async with self._patience.engine.begin() as tx:
                await give_back(tx, unmade)
                await release_probes(tx, [attempt.callback_id for attempt in unmade])

        try:
            await self._patience.until_done(write, what="claims to undo", wanted=lambda: True)
        except Exception as error:  # they stay open: they become ambiguous when their leases end, and are made then
            self.turns.fail()
            log_failure("claims_not_undone", error, attempts=len(unmade))

    async def _write(self, batch: Sequence[Closing]) -> None:
        try:
            self._tell(batch, await self._close(batch))
        except Exception as error:  # not an outage: one of them cannot be stored; it must hurt only itself
            log.warning("results_failed", results=len(batch), reason=reason_of(error), next="each alone")
            stored = [await self._write_alone(closing) for closing in batch]
            if not any(stored):
                self.turns.fail()

    async def _write_alone(self, closing: Closing) -> bool:
        bare = replace(closing, result=replace(closing.result, error="could not be stored", response_body=None))
        for version in (closing, bare):
            try:
                self._tell([version], await self._close([version]))
                return True
            except Exception as error:  # the attempt stays open: ambiguous when its lease ends, and repeated
                log_failure("result_not_stored", error, callback_id=str(closing.attempt.callback_id))
        return False

    async def _close(self, batch: Sequence[Closing]) -> Written:
        async def write() -> Written:
            async with self._patience.engine.begin() as tx:
                now = self._clock()
                is_manual = batch[0].attempt.redelivery is not None
                closed = await (close_redeliveries if is_manual else close_attempts)(tx, batch, now)
                done = [closing for closing in batch if closing.attempt.callback_id in closed]
                gone = set() if is_manual else await end_after(tx, done)
                return Written(closed, gone, await self._hosts.note(tx, done, now))

        return await self._patience.until_done(write, what="results", wanted=lambda: True)

    def _tell(self, batch: Sequence[Closing], written: Written) -> None:
        for closing in batch:
            following = closing.next
            if closing.attempt.callback_id not in written.closed:
                _tell_fenced(closing)
            elif closing.attempt.redelivery is not None:
                _tell_manual(closing)
            elif following.next_attempt_at is None:
                _tell_end(closing)
            elif closing.attempt.callback_id not in written.gone:
                self._on_retry(following.next_attempt_at)
        tell_gone(written.gone)
        for at in self._hosts.apply(written.hosts):
            self._on_retry(at or self._clock())


def _parts(batch: Sequence[Closing]) -> list[list[Closing]]:
    """Return scheduled attempts and manual ones apart: these leave the delivery as it is, unless they deliver."""
    scheduled = [closing for closing in batch if closing.attempt.redelivery is None]
    manual = [closing for closing in batch if closing.attempt.redelivery is not None]
    return [part for part in (scheduled, manual) if part]


def _tell_manual(closing: Closing) -> None:
    log.info(
        "redelivery_ended",
        callback_id=str(closing.attempt.callback_id),
        message_id=str(closing.attempt.redelivery),
        number=closing.attempt.number,
        outcome=str(closing.result.outcome),
    )


def _tell_fenced(closing: Closing) -> None:
    log.warning(
        "result_came_too_late",
        callback_id=str(closing.attempt.callback_id),
        number=closing.attempt.number,
        outcome=str(closing.result.outcome),
        next="its attempt counts as ambiguous; another one was opened when its lease had ended",
    )


def _tell_end(closing: Closing) -> None:
    following = closing.next
    metrics.delivery_count(str(following.reason or "delivered")).inc()
    if following.state is State.FAILED:
        log.warning(
            "delivery_failed",
            callback_id=str(closing.attempt.callback_id),
            event_id=str(closing.attempt.event_id),
            destination=closing.attempt.destination,
            reason=str(following.reason),
            attempt_count=closing.attempt.number,
        )

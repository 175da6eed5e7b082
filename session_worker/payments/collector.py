"""Takes the steps that payments wait for at the provider, beside the queues: nothing else ever waits for it.

A payment is leased, its step noted, then taken outside of any transaction, and its answer learned under the session's
lock. Killed after the note: the lease ends, and another worker looks what became of the call before it makes it again.
Killed between answer and commit: the same. A worker that was stopped for longer than its lease does no harm: answers
are states of the provider's objects, and only forward moves count.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker import store
from session_worker.apply import Policy, Staged, State, write
from session_worker.payments.ask import STEP_TIMEOUT_S, ask
from session_worker.payments.learning import Answer, Learned, learn
from session_worker.payments.notes import events_of
from session_worker.payments.payment import Payment, payment_json
from session_worker.payments.provider import Misconfigured, Provider, ProviderError, Retryable
from session_worker.payments.steps import Step, begin
from session_worker.payments.store import claim_due, count_due_elsewhere, find_payments, lease
from session_worker.relay import Relay
from session_worker.session import Session
from shared import crash_points
from shared.database import lock_key
from shared.failures import log_failure, reason_of
from shared.logs import get_logger
from shared.loops import Turns

log = get_logger(__name__)

STEPS = Counter("voltline_payment_steps_total", "Steps at the payment provider", ["provider", "step", "result"])

# What a provider takes from one account without throttling, and what bounds connections to it.
CONCURRENCY: Final = 10
POLL_S: Final = 1.0
LEASE: Final = timedelta(seconds=2 * STEP_TIMEOUT_S)
# From one second to ten minutes: a provider that is down is soon noticed to be up, and not flooded.
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 600.0
# What a step does in the database takes milliseconds.
STUCK_STEP_AFTER_S: Final = STEP_TIMEOUT_S + 5.0


class Collector:
    """The steps of all due payments of one provider."""

    def __init__(
        self, engine: AsyncEngine, provider: Provider, relay: Relay, policy: Policy, *, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._provider = provider
        self._relay = relay
        self._policy = policy
        self._clock = clock
        self._due = asyncio.Event()
        self._in_hand = 0
        self._stopped = False
        self._claiming = Turns("claiming payments")
        self._stepping = Turns("a payment's step", stuck_after_s=STUCK_STEP_AFTER_S, may_fail=True)
        self.turns = (self._claiming, self._stepping)

    def wake(self) -> None:
        """Say that a payment may have become due."""
        self._due.set()

    async def run(self) -> None:
        """Collect until stopped; returns when no step is in hand."""
        await self._tell_of_others()
        async with asyncio.TaskGroup() as tasks:
            while not self._stopped:
                self._due.clear()
                with self._claiming.turn():
                    claimed = await self._claim()
                self._in_hand += len(claimed)
                for session_id in claimed:
                    tasks.create_task(self._collect(session_id))
                if not claimed:
                    await self._wait()

    def stop(self) -> None:
        """Begin no further step."""
        self._stopped = True
        self._due.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._due.wait()
        except TimeoutError:
            return

    async def _claim(self) -> list[UUID]:
        room = CONCURRENCY - self._in_hand
        if not room:
            return []
        now = self._clock()
        try:
            async with self._engine.begin() as tx:
                return await claim_due(tx, provider=self._provider.name, now=now, until=now + LEASE, most=room)
        except Exception as error:  # the edge of a loop that must never end; the next poll tries again
            self._claiming.fail()
            log.warning("payments_unclaimed", reason=reason_of(error), retry_in_s=POLL_S)
            return []

    async def _collect(self, session_id: UUID) -> None:
        try:
            while not self._stopped:
                with self._stepping.turn():
                    is_over = not await self.collect_once(session_id)
                if is_over:
                    return
            await self._give_back(session_id)
        except Exception as error:  # the database is away, or a fault of ours: the lease ends, and it is tried again
            log_failure("payment_waits", error, session_id=str(session_id), next="tried again after its lease")
        finally:
            self._in_hand -= 1
            self._due.set()

    async def collect_once(self, session_id: UUID) -> bool:
        """Take the next step of a payment; return whether there may be another now."""
        begun_at = self._clock()
        step = await self._begin(session_id, begun_at)
        if step is None:
            return False
        kind = type(step).__name__
        crash_points.reach("session_worker.between_note_and_call", (kind,))
        try:
            answer = await ask(self._provider, step, self._clock())
        except ProviderError as error:
            STEPS.labels(self._provider.name, kind, type(error).__name__).inc()
            await self._postpone(session_id, kind, error)
            return False
        crash_points.reach("session_worker.between_call_and_commit", (kind,))
        STEPS.labels(self._provider.name, kind, type(answer).__name__).inc()
        staged = await self._learn(session_id, answer, begun_at)
        if staged is not None:
            await self._relay.submit(staged)
        log.info("payment_step", session_id=str(session_id), step=kind, answer=type(answer).__name__)
        return True

    async def _begin(self, session_id: UUID, now: datetime) -> Step | None:
        """Note the step that will be taken, under its key; end the lease where there is none."""
        async with self._engine.begin() as tx:
            state, payment = await self._read(tx, session_id, now)
            session = state.sessions[session_id]
            begun = begin(payment, f"Charging session at {session.charger_id}", now)
            if begun is None:
                await _save(tx, state, payment.restated(now))
                await lease(tx, session_id, None)
                return None
            noted, step = begun
            await _save(tx, state, noted)
            await lease(tx, session_id, now + LEASE)
        return step

    async def _learn(self, session_id: UUID, answer: Answer, begun_at: datetime) -> Staged | None:
        now = self._clock()
        async with self._engine.begin() as tx:
            state, payment = await self._read(tx, session_id, now)
            learned = learn(payment, answer, begun_at, now)
            _tell(session_id, payment, learned)
            session = _showing(state.sessions[session_id], learned.payment, now)
            session, state.events = events_of(session, learned.notes, now)
            state.changed[session_id] = session
            state.changed_payments[session_id] = learned.payment
            state.unparked += learned.resolutions
            return await write(tx, state)

    async def _postpone(self, session_id: UUID, kind: str, error: ProviderError) -> None:
        now = self._clock()
        async with self._engine.begin() as tx:
            state, payment = await self._read(tx, session_id, now)
            failures = payment.failure_count + 1
            delay_s = _delay_s(error, failures, random.random())
            due_at = now + timedelta(seconds=delay_s)
            await _save(tx, state, replace(payment, failure_count=failures, due_at=due_at, updated_at=now))
            await lease(tx, session_id, None)
        say = log.error if isinstance(error, Misconfigured) else log.warning
        say(
            "payment_step_postponed",
            session_id=str(session_id),
            step=kind,
            reason=f"{type(error).__name__}: {error}"[:300],
            retry_in_s=round(delay_s, 1),
        )

    async def _give_back(self, session_id: UUID) -> None:
        """End the lease between two steps: another worker goes on at once."""
        async with self._engine.begin() as tx:
            await lease(tx, session_id, None)

    async def _tell_of_others(self) -> None:
        """Payments of another provider stay as they are until it is configured again: somebody should know."""
        try:
            async with self._engine.connect() as tx:
                count = await count_due_elsewhere(tx, self._provider.name)
        except Exception as error:  # said once, at the start; the database may only just come up
            log.warning("payments_uncounted", reason=reason_of(error))
            return
        if count:
            log.error(
                "payments_of_another_provider_wait",
                payments=count,
                provider=self._provider.name,
                next="configure that provider again until they are settled",
            )

    async def _read(self, tx: AsyncConnection, session_id: UUID, now: datetime) -> tuple[State, Payment]:
        await store.lock(tx, [lock_key(str(session_id))])
        state = State(now=now, policy=self._policy, sessions=await store.find_sessions(tx, [session_id]))
        payments = await find_payments(tx, [session_id])
        return state, payments[session_id]


async def _save(tx: AsyncConnection, state: State, payment: Payment) -> None:
    state.changed_payments[payment.session_id] = payment
    await write(tx, state)


def _showing(session: Session, payment: Payment, now: datetime) -> Session:
    """Return the session with its payment; who polls by `updatedAt` sees that it has changed."""
    shown = payment_json(payment)
    return session if shown == session.payment else replace(session, payment=shown, updated_at=now)


def _delay_s(error: ProviderError, failures: int, chance: float) -> float:
    """Doubling with jitter; the provider's own wish is a floor."""
    most: float = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16))
    wished_s = error.retry_after_s if isinstance(error, Retryable) else None
    return max(most * (0.5 + chance / 2), min(wished_s or 0.0, BACKOFF_MOST_S))


def _tell(session_id: UUID, before: Payment, learned: Learned) -> None:
    if learned.payment.status is not before.status:
        log.info(
            "payment_changed",
            session_id=str(session_id),
            before=str(before.status),
            status=str(learned.payment.status),
        )

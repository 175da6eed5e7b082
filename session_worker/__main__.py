"""`python -m session_worker`: applies commands to sessions and collects what they cost, until SIGTERM."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker.apply import Policy, Staged, State, apply
from session_worker.authorize import Authorization
from session_worker.authorizer import Authorizer
from session_worker.commands import PREFETCH, CommandLoop
from session_worker.payments.collector import Collector
from session_worker.payments.commands import PaymentCommands
from session_worker.payments.decide import PAYMENT_TYPES
from session_worker.payments.provider import Provider
from session_worker.payments.providers import provider_of, terms_of
from session_worker.relay import Relay
from session_worker.session import Received
from session_worker.settings import SessionWorkerSettings
from session_worker.sweeper import Sweeper
from shared import process, settings
from shared.broker.care import Care
from shared.broker.consumer import Consumer
from shared.broker.publisher import Publisher
from shared.commands import COMMANDS
from shared.database import create_engine, readiness_fault
from shared.database_clock import DatabaseClock
from shared.health import Check, health_sockets, listed, serve_health
from shared.loops import Loops
from shared.retention.caretaker import Caretaker
from shared.retention.sessions import session_purges
from shared.topology import PAYMENT_COMMANDS as PAYMENT_QUEUE
from shared.topology import SESSION_COMMANDS as SESSION_QUEUE

NAME = "session_worker"
SESSION_TYPES = COMMANDS.keys() - PAYMENT_TYPES
# One each for the batches of both queues, the sweeper, verdicts and the readiness check, and some for payment steps.
POOL_SIZE = 8
# A refund or a provider's event is one small transaction, and they are few beside sessions.
PAYMENT_PREFETCH = 100
# A batch in hand ends within milliseconds, or gives up in an outage.
LOOPS_DRAIN_S = 6.0
# What waits for the authorization service or the payment provider at SIGTERM has this long; the rest is for others.
WAITING_DRAIN_S = 12.0
CLEAR_TIMEOUT_S = 2.0


Task: TypeAlias = "asyncio.Task[None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the process is made of."""

    publisher: Publisher
    consumers: Sequence[Consumer]
    relay: Relay
    authorizer: Authorizer | None
    provider: Provider | None
    collector: Collector | None
    loops: Sequence[CommandLoop]
    sweeper: Sweeper


async def serve(config: SessionWorkerSettings, sockets: Sequence[socket.socket], drain: asyncio.Event) -> None:
    """Consume until `drain` is set, then settle what is in hand, publish its events and close everything."""
    url = config.database_url.get_secret_value()
    engine = create_engine(url, name=NAME, pool_size=POOL_SIZE)
    clock = DatabaseClock(engine)
    caretaker = Caretaker(url, name=NAME, purges=partial(session_purges, config), has_leapt=clock.has_leapt)
    async with asyncio.TaskGroup() as tasks:
        parts, loops = _wire(config, engine, clock, tasks), Loops(tasks, drain)
        background = [
            loops.start("health", serve_health(_checks(engine, parts, loops), sockets)),
            loops.start("publishing", parts.publisher.run()),
            loops.start("sweeping", parts.sweeper.run(), parts.sweeper.turns),
        ]
        if parts.authorizer is not None:
            background.append(loops.start("authorizing", parts.authorizer.run(), *parts.authorizer.turns))
        # No loop that the process lives by: it may fail for as long as it likes.
        background.append(purging := tasks.create_task(caretaker.run()))
        if await clock.told(drain):
            # Not before: what they hold nobody else can handle.
            background += [loops.start(consumer.name, consumer.run()) for consumer in parts.consumers]
            handling = [loops.start(f"handling {loop.queue}", loop.run(), loop.turns) for loop in parts.loops]
            collecting = []
            if parts.collector is not None:
                collecting.append(loops.start("collecting", parts.collector.run(), *parts.collector.turns))
            await drain.wait()
            purging.cancel()
            await _drain(parts, handling, collecting, tasks)
        process.settled()
        for task in background:
            # The purge was told already: a second time it could not close its connection.
            if not task.cancelling():
                task.cancel()
    if parts.provider is not None:
        await parts.provider.close()
    await engine.dispose()


async def _drain(parts: Parts, loops: Sequence[Task], collecting: Sequence[Task], tasks: asyncio.TaskGroup) -> None:
    """Take no more, then finish what is in hand, within the contract's 25 s."""
    if parts.collector is not None:
        parts.collector.stop()
    await asyncio.gather(*(consumer.stop() for consumer in parts.consumers))
    await asyncio.wait(loops, timeout=LOOPS_DRAIN_S)
    # What a provider or the authorization service keeps hanging is taken up by another worker.
    waiting = [*collecting]
    if parts.authorizer is not None:
        waiting.append(tasks.create_task(parts.authorizer.finish()))
    if waiting:
        await asyncio.wait(waiting, timeout=WAITING_DRAIN_S)
    for task in [*loops, *waiting]:
        task.cancel()
    await parts.relay.finish()
    with suppress(Exception):  # the database may be away; the rows are published once more
        async with asyncio.timeout(CLEAR_TIMEOUT_S):
            await parts.sweeper.clear_done()


def _wire(config: SessionWorkerSettings, engine: AsyncEngine, clock: DatabaseClock, tasks: asyncio.TaskGroup) -> Parts:
    amqp_url = config.amqp_url.get_secret_value()
    publisher = Publisher(amqp_url, name=f"{NAME} publishes")
    care = Care()
    sessions = Consumer(amqp_url, SESSION_QUEUE, name=f"{NAME} consumes", prefetch=PREFETCH, care=care)
    payments = Consumer(amqp_url, PAYMENT_QUEUE, name=f"{NAME} consumes payments", prefetch=PAYMENT_PREFETCH, care=care)
    provider = provider_of(config, engine, clock.now)
    policy = config.policy(terms_of(provider))
    relay = Relay(publisher, tasks)
    authorizer = _authorizer(config, engine, relay, policy, clock)
    collector = None if provider is None else Collector(engine, provider, relay, policy, clock=clock.now)

    async def apply_sessions(batch: Sequence[Received], published: Sequence[UUID]) -> tuple[State, Staged | None]:
        state, staged = await apply(engine, batch, clock=clock.now, policy=policy, published=published)
        if authorizer is not None:
            authorizer.submit(request for request in state.taken_requests.values() if request.decision is None)
        _wake(collector, state)
        return state, staged

    commands = PaymentCommands(engine, provider, policy, clock=clock.now)

    async def apply_payments(batch: Sequence[Received], published: Sequence[UUID]) -> tuple[State, Staged | None]:
        state, staged = await commands.apply(batch, published)
        _wake(collector, state)
        return state, staged

    loops = (
        CommandLoop(sessions, publisher, relay, engine, types=SESSION_TYPES, apply=apply_sessions, clock=clock.now),
        CommandLoop(payments, publisher, relay, engine, types=PAYMENT_TYPES, apply=apply_payments, clock=clock.now),
    )
    return Parts(
        publisher=publisher,
        consumers=(sessions, payments),
        relay=relay,
        authorizer=authorizer,
        provider=provider,
        collector=collector,
        loops=loops,
        sweeper=Sweeper(engine, publisher, relay, policy=policy, authorizer=authorizer, clock=clock),
    )


def _wake(collector: Collector | None, state: State) -> None:
    if collector is not None and state.changed_payments:
        collector.wake()


def _authorizer(
    config: SessionWorkerSettings, engine: AsyncEngine, relay: Relay, policy: Policy, clock: DatabaseClock
) -> Authorizer | None:
    url = config.authorization_url
    if policy.authorization is not Authorization.HTTP or url is None:
        return None
    return Authorizer(url.get_secret_value(), engine=engine, relay=relay, policy=policy, clock=clock.now)


def _checks(engine: AsyncEngine, parts: Parts, loops: Loops) -> Mapping[str, Check]:
    async def broker_fault() -> str | None:
        return listed([*(consumer.fault() for consumer in parts.consumers), parts.publisher.fault()])

    async def database_fault() -> str | None:
        return await readiness_fault(engine, "inbox")

    async def loops_fault() -> str | None:
        return loops.fault()

    async def outbox_fault() -> str | None:
        return parts.sweeper.outbox_fault()

    return {"broker": broker_fault, "database": database_fault, "loops": loops_fault, "outbox": outbox_fault}


def main() -> None:
    """Read the settings and run."""
    config = settings.load(SessionWorkerSettings)
    sockets = health_sockets(
        config.worker_http_host, config.session_worker_http_port, port_variable="SESSION_WORKER_HTTP_PORT"
    )
    process.run(config, partial(serve, config, sockets), name=NAME)


if __name__ == "__main__":
    main()

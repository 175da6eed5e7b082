"""`python -m callback_worker`: delivers callbacks, until SIGTERM."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.addresses import AddressPolicy
from callback_worker.birth import Births
from callback_worker.commands import PREFETCH as COMMANDS_PREFETCH
from callback_worker.commands import CommandLoop
from callback_worker.delivery import Terms
from callback_worker.destination import DestinationPolicy
from callback_worker.dispatch import Dispatcher
from callback_worker.hosts import Hosts
from callback_worker.intake import PREFETCH, Intake
from callback_worker.lookup import Lookup
from callback_worker.patience import Patience
from callback_worker.ports import PortPolicy
from callback_worker.redeliveries import Redeliveries
from callback_worker.results import Results
from callback_worker.retries import Alarm, Retries
from callback_worker.sender import Sender
from callback_worker.setting_aside import NAME
from callback_worker.settings import CallbackWorkerSettings
from callback_worker.slots import Slots
from callback_worker.upkeep import Upkeep
from shared import process, settings
from shared.broker.care import Care
from shared.broker.consumer import Consumer
from shared.broker.publisher import Publisher
from shared.database import create_engine, ping
from shared.database_clock import DatabaseClock
from shared.health import Check, health_sockets, listed, serve_health
from shared.logs import get_logger
from shared.loops import Loops
from shared.outages import SETTLING_S
from shared.retention.aged import callback_purges
from shared.retention.caretaker import Caretaker
from shared.topology import CALLBACK_COMMANDS, CALLBACK_EVENTS

log = get_logger(__name__)

# One each for new deliveries, due deliveries, results, upkeep, commands, redeliveries and the readiness check.
POOL_SIZE = 7
# Of the 25 s of a drain: for what is in hand, an attempt's 15 s above all; what is cut off is left to others.
DRAIN_WORK_S = 18.0
# For the last results, where the database hangs; the rest of the time is for closing connections to what may hang.
DRAIN_RESULTS_S = 2.0
DRAIN_CLOSE_S = 2.0


async def serve(config: CallbackWorkerSettings, sockets: Sequence[socket.socket], drain: asyncio.Event) -> None:
    """Deliver until `drain` is set, then finish the attempts in hand, write their results and close everything."""
    url = config.database_url.get_secret_value()
    engine = create_engine(url, name=NAME, pool_size=POOL_SIZE)
    event.listen(engine.sync_engine, "connect", _prefer_indexes)
    clock = DatabaseClock(engine)
    caretaker = Caretaker(url, name=NAME, purges=partial(callback_purges, config), has_leapt=clock.has_leapt)
    async with _sender(config, clock) as sender, asyncio.TaskGroup() as tasks:
        parts, loops = _wire(config, engine, clock, sender, tasks, drain), Loops(tasks, drain)
        background = [
            loops.start("health", serve_health(_checks(engine, parts, loops), sockets)),
            loops.start("publishing", parts.publisher.run()),
            loops.start("writing results", parts.results.run(), parts.results.turns),
            loops.start("upkeep", parts.upkeep.run(), parts.upkeep.turns),
        ]
        # No loop that the process lives by: it may fail for as long as it likes.
        background.append(purging := tasks.create_task(caretaker.run()))
        if await clock.told(drain):
            # Not before: what they hold nobody else can handle.
            background += [loops.start(consumer.name, consumer.run()) for consumer in parts.consumers]
            claiming = [
                loops.start("taking events", parts.intake.run(), parts.intake.turns, parts.dispatcher.turns),
                loops.start("claiming due deliveries", parts.retries.run(), parts.retries.turns),
                loops.start("taking commands", parts.commands.run(), parts.commands.turns),
                loops.start("redelivering", parts.redeliveries.run(), parts.redeliveries.turns),
            ]
            await drain.wait()
            purging.cancel()
            await _drain(parts, claiming)
        for task in background:
            # The purge was told already: a second time it could not close its connection.
            if not task.cancelling():
                task.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_CLOSE_S):
            await engine.dispose()


def _prefer_indexes(connection: Any, _: object) -> None:
    """Have all rows found by index; every statement here is made for one.

    Postgres keeps plans, those of foreign keys as well. One that was made while a table was empty would read a backlog
    from end to end, until autovacuum's next analysis.
    """
    connection.run_async(lambda driver: driver.execute("SET enable_seqscan = off"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the process is made of, from the queue to the results."""

    clock: DatabaseClock
    publisher: Publisher
    consumers: Sequence[Consumer]
    intake: Intake
    retries: Retries
    commands: CommandLoop
    redeliveries: Redeliveries
    slots: Slots
    dispatcher: Dispatcher
    results: Results
    upkeep: Upkeep


async def _drain(parts: Parts, loops: Sequence["asyncio.Task[None]"]) -> None:
    """Take and claim no more, then let attempts and results finish within the contract's 25 s."""
    parts.slots.close()
    parts.retries.stop()
    parts.redeliveries.stop()
    parts.dispatcher.end_by(parts.clock.now() + timedelta(seconds=DRAIN_WORK_S))
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_WORK_S):
            for consumer in parts.consumers:
                await consumer.stop()
            for loop in loops:
                await loop
            await parts.dispatcher.idle()
    parts.dispatcher.give_up()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_RESULTS_S):
            await parts.results.written()
    if left := len(parts.results.unwritten):
        log.error("results_not_written", results=left, next="their attempts are repeated after their leases end")


def _wire(
    config: CallbackWorkerSettings,
    engine: AsyncEngine,
    clock: DatabaseClock,
    sender: Sender,
    tasks: asyncio.TaskGroup,
    drain: asyncio.Event,
) -> Parts:
    amqp_url = config.amqp_url.get_secret_value()
    publisher = Publisher(amqp_url, name=f"{NAME} publishes")
    care = Care()
    consumer = Consumer(amqp_url, CALLBACK_EVENTS, name=f"{NAME} consumes", prefetch=PREFETCH, care=care)
    commands_consumer = Consumer(
        amqp_url, CALLBACK_COMMANDS, name=f"{NAME} consumes commands", prefetch=COMMANDS_PREFETCH, care=care
    )
    slots = Slots(total=config.callback_concurrency, per_host=config.callback_concurrency_per_host)
    terms = Terms(
        schedule_s=config.callback_retry_schedule_s,
        timeout_s=config.callback_timeout_s,
        expires_s=config.callback_expires_s,
    )
    now = clock.now
    alarm, patience = Alarm(now), Patience(engine)
    # Until the last worker knows, and the attempts have ended that it leased by the old time.
    clock.on_step = partial(patience.settle, SETTLING_S + terms.lease_s)
    hosts = Hosts()
    results = Results(patience, terms, hosts=hosts, clock=now, on_retry=alarm.ring_at)
    dispatcher = Dispatcher(sender, tasks, slots=slots, results=results, terms=terms, clock=now)
    retries = Retries(patience, dispatcher=dispatcher, slots=slots, terms=terms, alarm=alarm, clock=now)
    births = Births(patience, dispatcher=dispatcher, slots=slots, hosts=hosts, retries=retries, terms=terms)
    upkeep = Upkeep(patience, hosts=hosts, in_hand=dispatcher.in_hand, clock=now, ask_time=clock.ask)
    intake = Intake(consumer, publisher, births=births, dispatcher=dispatcher, drain=drain, clock=now)
    redeliveries = Redeliveries(patience, dispatcher=dispatcher, slots=slots, terms=terms, alarm=Alarm(now), clock=now)
    commands = CommandLoop(
        commands_consumer,
        publisher,
        patience,
        redeliveries=redeliveries,
        drain=drain,
        clock=now,
        remembered_days=config.inbox_retention_days,
    )
    return Parts(
        clock=clock,
        publisher=publisher,
        consumers=(consumer, commands_consumer),
        intake=intake,
        retries=retries,
        commands=commands,
        redeliveries=redeliveries,
        slots=slots,
        dispatcher=dispatcher,
        results=results,
        upkeep=upkeep,
    )


def _checks(engine: AsyncEngine, parts: Parts, loops: Loops) -> Mapping[str, Check]:
    async def broker_fault() -> str | None:
        return listed([*(consumer.fault() for consumer in parts.consumers), parts.publisher.fault()])

    async def database_fault() -> str | None:
        await ping(engine)
        return None

    async def loops_fault() -> str | None:
        return loops.fault()

    return {"broker": broker_fault, "database": database_fault, "loops": loops_fault}


@asynccontextmanager
async def _sender(config: CallbackWorkerSettings, clock: DatabaseClock) -> AsyncIterator[Sender]:
    lookup = Lookup()
    sender = Sender(
        keys=config.callback_signing_keys,
        pair=config.callback_ed25519_key,
        policy=DestinationPolicy(
            AddressPolicy(config.callback_allowed_networks),
            config.callback_require_https,
            PortPolicy(config.callback_allowed_ports),
        ),
        resolve=lookup,
        timeout_s=config.callback_timeout_s,
        clock=clock.now,
    )
    try:
        async with sender:
            yield sender
    finally:
        lookup.close()


def main() -> None:
    """Read the settings and run."""
    config = settings.load(CallbackWorkerSettings)
    sockets = health_sockets(
        config.worker_http_host, config.callback_worker_http_port, port_variable="CALLBACK_WORKER_HTTP_PORT"
    )
    process.run(config, partial(serve, config, sockets), name=NAME)


if __name__ == "__main__":
    main()

"""`python -m session_worker`: applies commands to sessions, until SIGTERM."""

import asyncio
from contextlib import suppress
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker.apply import Policy
from session_worker.authorize import Authorization
from session_worker.authorizer import Authorizer
from session_worker.commands import PREFETCH, CommandLoop
from session_worker.relay import Relay
from session_worker.settings import SessionWorkerSettings
from session_worker.sweeper import Sweeper
from shared import process, settings
from shared.broker.consumer import Consumer
from shared.broker.publisher import Publisher
from shared.database import create_engine, readiness_fault
from shared.health import serve_health
from shared.topology import SESSION_COMMANDS

NAME = "session_worker"
# One for the batch, one for the sweeper, one for verdicts, one for the readiness check.
POOL_SIZE = 4
# What waits for the authorization service at SIGTERM has this long; the rest is for other workers.
AUTHORIZER_DRAIN_S = 12.0
CLEAR_TIMEOUT_S = 2.0


async def serve(config: SessionWorkerSettings, drain: asyncio.Event) -> None:
    """Consume until `drain` is set, then settle what is in hand, publish its events and close everything."""
    amqp_url = config.amqp_url.get_secret_value()
    engine = create_engine(config.database_url.get_secret_value(), name=NAME, pool_size=POOL_SIZE)
    publisher = Publisher(amqp_url, name=f"{NAME} publishes")
    consumer = Consumer(amqp_url, SESSION_COMMANDS, name=f"{NAME} consumes", prefetch=PREFETCH)

    async def broker_fault() -> str | None:
        return publisher.fault() or consumer.fault()

    async def database_fault() -> str | None:
        return await readiness_fault(engine, "inbox")

    async with asyncio.TaskGroup() as tasks:
        relay = Relay(publisher, tasks)
        policy = config.policy()
        authorizer = _authorizer(config, engine, relay, policy)
        loop = CommandLoop(consumer, publisher, relay, engine, policy, authorizer)

        async def batch_fault() -> str | None:
            return loop.fault()

        sweeper = Sweeper(engine, publisher, relay, policy, authorizer)
        checks = {"broker": broker_fault, "database": database_fault, "batch": batch_fault}
        port = config.session_worker_http_port
        background = [
            tasks.create_task(publisher.run()),
            tasks.create_task(consumer.run()),
            tasks.create_task(sweeper.run()),
            tasks.create_task(serve_health(checks, host=config.worker_http_host, port=port)),
        ]
        if authorizer is not None:
            background.append(tasks.create_task(authorizer.run()))
        handling = tasks.create_task(loop.run())
        await drain.wait()
        await consumer.stop()
        await handling
        if authorizer is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(AUTHORIZER_DRAIN_S):
                    await authorizer.finish()
        await relay.finish()
        with suppress(Exception):  # the database may be away; the rows are published once more
            async with asyncio.timeout(CLEAR_TIMEOUT_S):
                await sweeper.clear_done()
        process.settled()
        for task in background:
            task.cancel()
    await engine.dispose()


def _authorizer(config: SessionWorkerSettings, engine: AsyncEngine, relay: Relay, policy: Policy) -> Authorizer | None:
    url = config.authorization_url
    if policy.authorization is not Authorization.HTTP or url is None:
        return None
    return Authorizer(url.get_secret_value(), engine=engine, relay=relay, policy=policy)


def main() -> None:
    """Read the settings and run."""
    config = settings.load(SessionWorkerSettings)
    process.run(config, partial(serve, config), name=NAME)


if __name__ == "__main__":
    main()

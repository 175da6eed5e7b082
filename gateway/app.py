"""The application, put together: commands in front, then reads, health, documentation. It runs the publisher."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import metrics
from gateway.auth import ApiKey
from gateway.database import Database
from gateway.incoming import ClientGone
from gateway.ocpi import Party
from gateway.openapi import document
from gateway.outcomes import Outcomes
from gateway.problems import handle_problems
from gateway.publishing import CommandPublisher
from gateway.routes.callbacks import callback_routes
from gateway.routes.commands import command_routes
from gateway.routes.directory import directory_routes
from gateway.routes.documentation import documentation_routes
from gateway.routes.pages import page_routes
from gateway.routes.payments import payment_routes
from gateway.routes.reads import read_routes
from gateway.webhooks import Webhooks
from shared.broker.publisher import Publisher
from shared.health import Check, health_routes
from shared.loops import Loops
from shared.settings import PaymentProvider

# A first request right after the start should not meet a gateway that is only just connecting.
CONNECT_GRACE_S = 1.0
_POLL_S = 0.02


def create_app(
    *,
    publisher: Publisher,
    database: Database,
    keys: tuple[ApiKey, ...] | None,
    party: Party,
    webhooks: Webhooks,
    drain: asyncio.Event,
) -> FastAPI:
    """Return the gateway. It runs the publisher while it is up and closes the database at its end.

    Who waits for an outcome is answered as soon as `drain` is set.
    """
    outcomes, commands = Outcomes(database), CommandPublisher(publisher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            loops = Loops(tasks, drain)
            running = [
                loops.start("publishing", publisher.run()),
                loops.start("looking for outcomes", outcomes.run()),
                loops.start("releasing who waits", _release(outcomes, drain)),
            ]
            await _wait_for(publisher)
            yield
            # The server has drained: no request waits for a confirm any more.
            for task in running:
                task.cancel()
        await database.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    handle_problems(app)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_middleware(metrics.Measured)
    app.include_router(read_routes(database, keys, party))
    app.include_router(payment_routes(commands, database, keys, webhooks))
    app.include_router(directory_routes(database, keys))
    app.include_router(page_routes(commands, database, has_sandbox=webhooks.provider is PaymentProvider.SANDBOX))
    app.include_router(callback_routes(database, keys))
    documented = documentation_routes(document(app, is_anonymous=keys is None))
    app.router.routes[:0] = command_routes(commands, database, outcomes, keys)
    app.router.routes.extend([*_health_routes(publisher), *documented])
    return app


async def _on_client_gone(_: Request, __: Exception) -> Response:
    """Nobody reads it; the metrics do."""
    return Response(status_code=metrics.CLIENT_GONE)


async def _release(outcomes: Outcomes, drain: asyncio.Event) -> None:
    await drain.wait()
    outcomes.release()


async def _wait_for(publisher: Publisher) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_GRACE_S):
            while publisher.fault() is not None:  # noqa: ASYNC110 - it tells its state, not the change
                await asyncio.sleep(_POLL_S)


def _health_routes(publisher: Publisher) -> list[Route]:
    """The gateway acknowledges without the database, so its readiness is the broker's alone."""

    async def broker() -> str | None:
        return publisher.fault()

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    checks: dict[str, Check] = {"broker": broker}
    # Ours stands in front of the workers' /metrics: a gateway of several processes serves the sum.
    return [Route("/metrics", exposition), *health_routes(checks)]

"""`/livez`, `/readyz` and `/metrics` of a worker, on a port of its own.

Liveness says the event loop turns. Readiness runs every check; each returns a fault in words, or None.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.logs import get_logger

log = get_logger(__name__)

Check = Callable[[], Awaitable[str | None]]

# A check that hangs is a fault; an orchestrator's probe waits about as long.
CHECK_TIMEOUT_S = 2.0
GRACE_S = 5


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process owns the signals and stops the server itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def readiness(checks: Mapping[str, Check]) -> tuple[bool, dict[str, str]]:
    """Run all checks at once; return whether all passed, and a word or the fault of each."""
    results = await asyncio.gather(*(_run(check) for check in checks.values()))
    words = {name: fault or "ok" for name, fault in zip(checks, results, strict=True)}
    return not any(results), words


async def _run(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check()
    except Exception as error:  # a check that breaks is a fault like any other
        # The text may name hosts and users; whoever may read it has the log.
        log.warning("check_failed", reason=f"{type(error).__name__}: {error}"[:300])
        return type(error).__name__


def health_routes(checks: Mapping[str, Check]) -> list[Route]:
    """Return the three routes."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        ready, words = await readiness(checks)
        body = {"status": "ready" if ready else "unready", "checks": words}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]


async def serve_health(checks: Mapping[str, Check], *, host: str, port: int) -> None:
    """Serve until cancelled; port 0 is off."""
    if port == 0:
        return
    config = uvicorn.Config(
        Starlette(routes=health_routes(checks)),
        host=host, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    await Server(config).serve()

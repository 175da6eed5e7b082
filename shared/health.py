"""`/livez`, `/readyz` and `/metrics` of a worker, on a port of its own.

Liveness says the event loop turns. Readiness runs every check; each returns a fault in words, or None.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.failures import kind_of, reason_of
from shared.listening import listen
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


def listed(faults: Iterable[str | None]) -> str | None:
    """Return the faults in one line, or None where there is none."""
    return "; ".join(fault for fault in faults if fault is not None) or None


class Readiness:
    """Runs all checks at once, each no more than once at a time: probes cannot pile up behind one that hangs."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._running: dict[str, asyncio.Task[str | None]] = {}

    async def ask(self) -> tuple[bool, dict[str, str]]:
        """Return whether all passed, and a word or the fault of each."""
        results = await asyncio.gather(*(self._result(name) for name in self._checks))
        words = {name: fault or "ok" for name, fault in zip(self._checks, results, strict=True)}
        return not any(results), words

    async def _result(self, name: str) -> str | None:
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.create_task(_run(self._checks[name]))
            running.add_done_callback(lambda _: self._running.pop(name, None))
        # Not `asyncio.timeout`: a database driver that is cancelled on a stuck connection takes its time as well.
        done, _ = await asyncio.wait([running], timeout=CHECK_TIMEOUT_S)
        if not done or running.cancelled():
            running.cancel()
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        return running.result()


async def _run(check: Check) -> str | None:
    try:
        return await check()
    except Exception as error:  # a check that breaks is a fault like any other
        # The text may name hosts and users; whoever may read it has the log.
        log.warning("check_failed", error=type(error).__name__, reason=reason_of(error))
        return kind_of(error)


def health_routes(checks: Mapping[str, Check]) -> list[Route]:
    """Return the three routes."""
    readiness = Readiness(checks)

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        ready, words = await readiness.ask()
        body = {"status": "ready" if ready else "unready", "checks": words}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]


async def serve_health(checks: Mapping[str, Check], sockets: Sequence[socket.socket]) -> None:
    """Serve until cancelled; without sockets it is off."""
    if not sockets:
        await asyncio.Event().wait()
    config = uvicorn.Config(
        Starlette(routes=health_routes(checks)),
        log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    await Server(config).serve(sockets=list(sockets))


def health_sockets(host: str, port: int, *, port_variable: str) -> list[socket.socket]:
    """Return what a worker's health is served on; port 0 is off. Exits with one line where it cannot listen."""
    return [] if port == 0 else listen(host, port, host_variable="WORKER_HTTP_HOST", port_variable=port_variable)

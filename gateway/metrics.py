"""The gateway's metrics, and the middleware that measures every request."""

import os
import time
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Set for the processes of a gateway that has several: their metrics lie in files and any of them serves the sum.
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# nginx's number for a client that left before the answer.
CLIENT_GONE = 499

# An acknowledgement takes 2 to 100 ms; 1.5 s is the publish timeout.
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)

_requests = Counter("voltline_gateway_requests", "HTTP requests by route template and status.", ["route", "status"])
_durations = Histogram(
    "voltline_gateway_request_seconds",
    "HTTP request duration, without waits for an outcome.",
    ["route"],
    buckets=_BUCKETS,
)
_publishes = Counter("voltline_gateway_publishes", "Published commands by outcome.", ["outcome"])
in_flight = Gauge("voltline_gateway_publishes_in_flight", "Unconfirmed publishes.", multiprocess_mode="livesum")
waiters = Gauge("voltline_gateway_waiters", "Callers who wait for an outcome.", multiprocess_mode="livesum")
_waits = Counter("voltline_gateway_waits", "Waits for an outcome, by how they ended.", ["result"])

# What a caller chose to wait is not how long the gateway took: the endpoint notes it here, in the ASGI scope.
WAITED_S = "voltline.waited_s"

# Looking a labelled child up costs as much as all else here; routes, statuses and outcomes are few.
_request_count = cache(_requests.labels)
_duration = cache(_durations.labels)
publish_count = cache(_publishes.labels)
wait_count = cache(_waits.labels)


def exposition() -> bytes:
    """Return the metrics of this process, or of all its siblings together."""
    if MULTIPROCESS_FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class Measured:
    """Pure ASGI middleware: counts and times requests by route template, so ids do not become label values."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            status = 500
            raise
        finally:
            route = _template(scope)
            _request_count(route, str(status)).inc()
            _duration(route).observe(time.perf_counter() - began - scope.get(WAITED_S, 0.0))


def _template(scope: Scope) -> str:
    """The path as a template: of FastAPI's route, or of the command endpoint. Health and documentation are "other"."""
    route, endpoint = scope.get("route"), scope.get("endpoint")
    path = getattr(route, "path_format", None) or getattr(endpoint, "path", None)
    return path if isinstance(path, str) else "other"

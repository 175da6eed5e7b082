"""The gateway without broker and database: a publisher that answers as told, an engine that reaches nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from gateway.app import create_app
from gateway.auth import ApiKey, Caller, Scope
from gateway.database import Database
from gateway.ocpi import Party
from gateway.webhooks import Webhooks, webhooks_of
from shared.broker.publisher import Outcome, Publisher
from shared.messages import Outgoing
from shared.settings import PaymentProvider

# Port 1 refuses at once.
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"

REQUEST_BODY: dict[str, Any] = {
    "stationId": "9673200c-05a1-4b2d-aa4c-9deb130981a2",
    "driverId": "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL",
    "callbackUrl": "https://webhook.site/{id}",
}
SESSION_ID = "123e4567-e89b-12d3-a456-426614174000"
PATHS = {
    "request": "/api/charging-session-requests",
    "start": "/api/v1/session/start",
    "stop": "/api/v1/session/stop",
    "cancel": "/api/v1/session/cancel",
    "meter": "/api/v1/session/meter-values",
    "recreate": "/api/v1/payment/recreate-link",
    "refund": "/api/v1/payment/refund",
}
BODIES: dict[str, dict[str, Any]] = {
    "request": REQUEST_BODY,
    "start": {"chargerId": "CHARGER-001"},
    "stop": {"sessionId": SESSION_ID},
    "cancel": {"sessionId": SESSION_ID},
    "meter": {"sessionId": SESSION_ID, "meterWh": "1234.5"},
    "recreate": {"sessionId": SESSION_ID},
    "refund": {"sessionId": SESSION_ID},
}


class FakePublisher(Publisher):
    """Answers every publish with `outcome` and keeps what it was given."""

    def __init__(self, outcome: Outcome = Outcome.CONFIRMED) -> None:
        super().__init__("amqp://nowhere", name="fake")
        self.outcome = outcome
        self.published: list[Outgoing] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def fault(self) -> str | None:
        return None

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float) -> list[Outcome]:
        assert timeout_s < 2
        self.published.extend(batch)
        return [self.outcome] * len(batch)


def api_key(key: str, client: str, *scopes: Scope) -> ApiKey:
    return ApiKey(hashlib.sha256(key.encode()).digest(), Caller(client, frozenset(scopes)))


def application(
    publisher: Publisher | None = None,
    keys: tuple[ApiKey, ...] | None = None,
    database: Database | None = None,
    webhooks: Webhooks | None = None,
) -> FastAPI:
    """Return a gateway; unless told otherwise, its payment provider is the sandbox."""
    return create_app(
        publisher=publisher or FakePublisher(),
        database=database or Database(NO_DATABASE),
        keys=keys,
        party=Party("XX", "VLT"),
        webhooks=webhooks or webhooks_of(PaymentProvider.SANDBOX, None),
        drain=asyncio.Event(),
    )


@asynccontextmanager
async def opened(
    publisher: Publisher | None = None,
    keys: tuple[ApiKey, ...] | None = None,
    database: Database | None = None,
    webhooks: Webhooks | None = None,
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a gateway in this process. Its lifespan does not run: nobody looks for outcomes."""
    database = database or Database(NO_DATABASE)
    app = application(publisher, keys, database, webhooks)
    transport = httpx.ASGITransport(app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    await database.close()

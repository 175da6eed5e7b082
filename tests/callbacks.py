"""Events as the outbox publishes them, and what became of their callbacks in the database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from ops.local_stack.processes import Process, Processes
from ops.receiver import Answer, Callback, Receiver
from shared.broker.publisher import Outcome, Publisher
from shared.callbacks import ANONYMOUS
from shared.events import Event, EventType, outbox_entry, outgoing
from tests.wire import eventually

StartWorker = Callable[..., Awaitable[Process]]

# A second attempt that no time makes due within a test: `CallbackLog.make_due` does.
NOT_BY_ITSELF = "0,3000"


def event(url: str | None, **changes: Any) -> Event:
    """A session's first event; `url` is where its callback goes."""
    session_id = uuid4()
    defaults: dict[str, Any] = {
        "event_id": uuid4(),
        "type": EventType.SESSION_STARTED,
        "occurred_at": datetime.now(UTC),
        "data": {"sessionId": str(session_id), "sequence": 1, "stationId": "Zürich"},
        "session_id": session_id,
        "request_id": None,
        "callback_url": url,
        "client": ANONYMOUS,
        "caused_by": uuid4(),
    }
    return Event(**(defaults | changes))


class EventSource:
    """Publishes events as the session worker's relay does."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, *events: Event) -> None:
        """Return once the broker has confirmed them all."""
        batch = [outgoing(outbox_entry(each)) for each in events]
        assert set(await self._publisher.publish(batch, timeout_s=10)) == {Outcome.CONFIRMED}

    async def is_taken(self, one: Event) -> bool:
        """Publish; return whether the broker has confirmed it."""
        return await self._publisher.publish([outgoing(outbox_entry(one))], timeout_s=10) == [Outcome.CONFIRMED]


@asynccontextmanager
async def open_source(amqp_url: str) -> AsyncIterator[EventSource]:
    publisher = Publisher(amqp_url, name="test publishes events")
    running = asyncio.create_task(publisher.run())

    async def connected() -> bool:
        return publisher.fault() is None

    try:
        await eventually(connected)
        yield EventSource(publisher)
    finally:
        running.cancel()
        await asyncio.wait([running])


class CallbackLog:
    """The callback tables, as an operator would read them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def delivery(self, event_id: UUID) -> dict[str, Any] | None:
        row = await self._connection.fetchrow('SELECT * FROM callback_deliveries WHERE "eventId" = $1', event_id)
        return None if row is None else dict(row)

    async def attempts(self, event_id: UUID) -> list[dict[str, Any]]:
        rows = await self._connection.fetch(
            """SELECT a.* FROM callback_attempts a JOIN callback_deliveries d ON d.id = a."callbackId"
            WHERE d."eventId" = $1 ORDER BY number""",
            event_id,
        )
        return [dict(row) for row in rows]

    async def outcomes(self, event_id: UUID) -> list[str]:
        return [attempt["outcome"] for attempt in await self.attempts(event_id)]

    async def ended(self, event_id: UUID, *, timeout_s: float = 30) -> dict[str, Any]:
        """Wait until the delivery is DELIVERED or FAILED, and return it."""

        async def look() -> dict[str, Any] | None:
            row = await self.delivery(event_id)
            return row if row is not None and row["state"] != "PENDING" else None

        row = await eventually(look, timeout_s=timeout_s)
        assert row is not None
        return row

    async def all_delivered(self, event_ids: Sequence[UUID], *, timeout_s: float = 30) -> None:
        """Wait until every one of them is."""

        async def look() -> bool:
            count = await self._connection.fetchval(
                """SELECT count(*) FROM callback_deliveries WHERE "eventId" = ANY($1) AND state = 'DELIVERED'""",
                event_ids,
            )
            return bool(count == len(event_ids))

        await eventually(look, timeout_s=timeout_s)

    async def opened(self, event_id: UUID) -> None:
        """Wait until an attempt is in hand."""

        async def look() -> bool:
            return "open" in await self.outcomes(event_id)

        await eventually(look)

    async def now(self) -> datetime:
        """The database's time."""
        found: datetime = await self._connection.fetchval("SELECT now()")
        return found

    async def expire(self, event_id: UUID) -> None:
        """What time alone would do."""
        await self._connection.execute(
            """UPDATE callback_deliveries SET "expiresAt" = now() WHERE "eventId" = $1""", event_id
        )

    async def make_due(self, event_id: UUID) -> None:
        """What time alone would do."""
        await self._connection.execute(
            """UPDATE callback_deliveries SET "nextAttemptAt" = now() WHERE "eventId" = $1""", event_id
        )

    async def command_is_refused(self, reason: str) -> None:
        """Wait until a command about callbacks has been refused for this reason."""

        async def look() -> bool:
            query = "SELECT count(*) FROM callback_inbox WHERE outcome = 'REFUSED' AND reason = $1"
            return bool(await self._connection.fetchval(query, reason))

        await eventually(look)

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(await self._connection.fetchval(f"SELECT count(*) FROM {table}"))

    async def clear(self, table: str) -> None:
        """Empty a table."""
        await self._connection.execute(f"DELETE FROM {table}")

    async def subscribe(self, client: str, url: str) -> None:
        """As the callback worker does for a client who asks."""
        await self._connection.execute(
            "INSERT INTO callback_subscriptions VALUES ($1, 'test', $2, NULL, false, now(), now())", client, url
        )

    async def none_is_pending(self) -> None:
        """Wait until every delivery has its end."""

        async def look() -> bool:
            query = "SELECT count(*) FROM callback_deliveries WHERE state = 'PENDING'"
            return not await self._connection.fetchval(query)

        await eventually(look)

    async def end_lease(self, event_id: UUID) -> None:
        """What time alone would do."""
        await self._connection.execute(
            """UPDATE callback_deliveries SET "leasedUntil" = now() WHERE "eventId" = $1""", event_id
        )


@asynccontextmanager
async def open_log(database_url: str) -> AsyncIterator[CallbackLog]:
    connection = await asyncpg.connect(database_url)
    try:
        yield CallbackLog(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def open_workers(processes: Processes) -> AsyncIterator[StartWorker]:
    """Yield what starts workers of one test's own; they are killed at its end, so that no other test meets them."""
    started: list[Process] = []

    async def start(**environment: str) -> Process:
        defaults: dict[str, Any] = {"CALLBACK_RETRY_SCHEDULE_S": "0,0.2,0.2,0.2", "CALLBACK_TIMEOUT_S": "8"}
        started.append(await processes.start("callback_worker", **(defaults | environment)))
        return started[-1]

    yield start
    for process in started:
        await process.kill()


def first_takes(seconds: float, receiver: Receiver) -> Callable[[Callback], Answer]:
    """The first callback is answered late, all others at once."""
    return lambda _: Answer(delay_s=0 if receiver.callbacks else seconds)


async def said(process: Process, words: str, *, timeout_s: float = 10) -> None:
    """Wait until the process has logged the words."""

    async def look() -> bool:
        return words in process.log_tail()

    await eventually(look, timeout_s=timeout_s)

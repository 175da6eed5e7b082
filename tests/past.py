"""Rows of long ago in a house's tables: sessions with all that belongs to them, requests, messages, callbacks."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from shared.ids import uuid7

# All that a session may leave behind, but for messages and callbacks, and which column names it there.
BELONGINGS = {
    "charging_sessions": "id", "charging_session_requests": "id", "meter_values": "sessionId",
    "session_adjustments": "sessionId", "payments": "sessionId", "payment_links": "sessionId",
    "payment_refunds": "sessionId",
}  # fmt: skip
TABLES = (*BELONGINGS, "sandbox_links", "sandbox_refunds", "inbox", "outbox", "callback_deliveries", "callback_inbox")


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


class Past:
    """Inserts as the administrator. Each row is `days` old; changes are columns."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def empty(self) -> None:
        await self.connection.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")

    async def put(self, table: str, **columns: Any) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        await self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *columns.values())

    async def session(self, days: float, **changes: Any) -> UUID:
        """A completed session without a price, and nothing else."""
        at = ago(days)
        row: dict[str, Any] = {
            "id": uuid7(at), "chargerId": "C-1", "status": "COMPLETED", "phase": "COMPLETED", "startedAt": at,
            "endedAt": at, "createdAt": at, "updatedAt": at, "sequence": 2, "needsReview": False,
        }  # fmt: skip
        row |= changes
        await self.put("charging_sessions", **row)
        session_id: UUID = row["id"]
        return session_id

    async def refused_session(self, days: float) -> UUID:
        return await self.session(
            days, status="CANCELLED", phase="CANCELLED", reason="CHARGER_BUSY", startedAt=None, endedAt=None
        )

    async def paid_session(self, days: float, **payment: Any) -> UUID:
        """A paid session with something in every table that a session has rows in."""
        at = ago(days)
        session_id = await self.session(days, finalCost=12, currency="EUR")
        await self.request(days, id=session_id, decision="allowed", sessionId=session_id)
        for wh in range(3):
            await self.put("meter_values", sessionId=session_id, measuredAt=at, meterWh=wh, isTimed=True)
        await self.put(
            "session_adjustments",
            id=uuid4(), sessionId=session_id, measuredAt=at, meterWh=9, energyKwh=1, createdAt=at,
        )  # fmt: skip
        for type_ in ("session.request.v1", "session.stop.v1"):
            await self.message(days, type=type_, sessionId=session_id)
        await self._payment(session_id, at, payment)
        return session_id

    async def _payment(self, session_id: UUID, at: datetime, changes: dict[str, Any]) -> None:
        row: dict[str, Any] = {
            "sessionId": session_id, "provider": "sandbox", "status": "PAID", "amount": 12, "currency": "EUR",
            "paidAmount": 12, "refundedAmount": 2, "failureCount": 0, "createdAt": at, "updatedAt": at,
        }  # fmt: skip
        await self.put("payments", **(row | changes))
        link_id = uuid4()
        await self.put(
            "payment_links",
            id=link_id, sessionId=session_id, number=1, status="COMPLETED", amount=12, idempotencyKey=f"link-{link_id}",
            expiresAt=at, lifetimeMinutes=60, providerLinkId=str(link_id), isAccepted=True, isClosing=False,
            isForced=False, commandIds="[]", createdAt=at,
        )  # fmt: skip
        await self.put(
            "payment_refunds",
            id=uuid4(), sessionId=session_id, linkId=link_id, status="SUCCEEDED", amount=2,
            idempotencyKey=f"refund-{link_id}", isAutomatic=False, createdAt=at,
        )  # fmt: skip
        await self.put(
            "sandbox_links",
            id=str(link_id), idempotencyKey=f"link-{link_id}", reference=str(link_id), description="", amountMinor=1200,
            currency="EUR", status="paid", expiresAt=at, createdAt=at,
        )  # fmt: skip
        await self.put(
            "sandbox_refunds",
            id=f"re_{link_id}", idempotencyKey=f"refund-{link_id}", reference=str(link_id), linkId=str(link_id),
            amountMinor=200, status="succeeded", createdAt=at,
        )  # fmt: skip

    async def request(self, days: float, **changes: Any) -> UUID:
        """A request that was not allowed."""
        at = ago(days)
        row: dict[str, Any] = {
            "id": uuid7(at), "stationId": "S-1", "driverId": "D-1", "callbackUrl": "http://s.example/", "createdAt": at,
            "decision": "not_allowed", "reason": "BLOCKED", "decidedAt": at,
        }  # fmt: skip
        row |= changes
        await self.put("charging_session_requests", **row)
        request_id: UUID = row["id"]
        return request_id

    async def message(self, days: float, **changes: Any) -> UUID:
        """A row of the inbox: a meter value that was applied."""
        row: dict[str, Any] = {
            "messageId": uuid7(ago(days)), "type": "session.meter.v1", "bodyHash": b"hash", "sessionId": uuid4(),
            "outcome": "APPLIED", "receivedAt": ago(days),
        }  # fmt: skip
        row |= changes
        await self.put("inbox", **row)
        message_id: UUID = row["messageId"]
        return message_id

    async def many_messages(self, days: float, count: int) -> None:
        """So many meter values in the inbox, a second apart."""
        await self.connection.execute(
            """INSERT INTO inbox SELECT gen_random_uuid(), 'session.meter.v1', '\\x00', gen_random_uuid(), 'APPLIED',
                NULL, $1::timestamptz - n * interval '1 second' FROM generate_series(1, $2::int) AS n""",
            ago(days), count,
        )  # fmt: skip

    async def many_values(self, session_id: UUID, count: int) -> None:
        """So many meter values more, a minute apart."""
        await self.connection.execute(
            """INSERT INTO meter_values SELECT $1, $2::timestamptz + n * interval '1 minute', n, true
                FROM generate_series(1, $3::int) AS n""",
            session_id, ago(9), count,
        )  # fmt: skip

    async def values(self) -> dict[UUID, int]:
        """How many meter values and adjustments each session has."""
        query = """SELECT "sessionId", count(*) FROM (SELECT "sessionId" FROM meter_values
            UNION ALL SELECT "sessionId" FROM session_adjustments) AS each GROUP BY "sessionId" """
        return {row[0]: row[1] for row in await self.connection.fetch(query)}

    async def delivery(self, days: float, **changes: Any) -> UUID:
        """A delivery that was made, with its attempt."""
        at = ago(days)
        row: dict[str, Any] = {
            "id": uuid7(at), "eventId": uuid4(), "type": "session.started.v1", "url": "http://s.example/",
            "host": "s.example", "destination": "s.example:80", "body": "{}", "state": "DELIVERED", "attemptCount": 1,
            "expiresAt": at + timedelta(days=3), "createdAt": at,
        }  # fmt: skip
        row |= changes
        await self.put("callback_deliveries", **row)
        await self.put(
            "callback_attempts", callbackId=row["id"], number=1, startedAt=at, outcome="delivered", manual=False
        )
        delivery_id: UUID = row["id"]
        return delivery_id

    async def redelivery(self, callback_id: UUID) -> None:
        """Somebody has asked for another attempt."""
        await self.put(
            "callback_redeliveries",
            callbackId=callback_id, messageId=uuid4(), destination="s.example:80", createdAt=ago(0), expiresAt=ago(-3),
        )  # fmt: skip

    async def callback_message(self, days: float) -> UUID:
        message_id = uuid4()
        await self.put(
            "callback_inbox",
            messageId=message_id, type="callback.redeliver.v1", bodyHash=b"hash", outcome="APPLIED",
            receivedAt=ago(days),
        )  # fmt: skip
        return message_id

    async def ids(self, table: str, column: str = "id") -> set[UUID]:
        """What there is."""
        return {row[0] for row in await self.connection.fetch(f'SELECT "{column}" FROM {table}')}

    async def counts(self) -> dict[str, int]:
        """How many rows each table has that has any."""
        found = {table: await self.connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
        return {table: count for table, count in found.items() if count}

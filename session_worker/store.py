"""What the batch reads and writes: plain functions over an open transaction, one statement each.

Locks come first and in one order (advisory, sorted keys), so workers cannot deadlock, and what is read after them is
what the last holder committed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_worker.completion import Adjustment
from session_worker.decide import Resolution
from session_worker.session import Claim, Received, Request, Session, request_of, session_of
from session_worker.tables import (
    inbox,
    meter_values,
    outbox,
    parked_commands,
    requests,
    session_adjustments,
    sessions,
)
from shared.commands import canonical_body, parse_command
from shared.database import insert_rows
from shared.meter import Sample

_LOCK = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
_SEEN = text('SELECT "messageId", "bodyHash" FROM inbox WHERE "messageId" = ANY(CAST(:ids AS uuid[]))')
_SESSIONS = text("SELECT * FROM charging_sessions WHERE id = ANY(CAST(:ids AS uuid[]))")
_REQUESTS = text("SELECT * FROM charging_session_requests WHERE id = ANY(CAST(:ids AS uuid[]))")
_PENDING = text("""
    SELECT * FROM charging_session_requests WHERE id = ANY(CAST(:ids AS uuid[])) AND decision IS NULL""")
_OVERDUE = text("""
    SELECT id FROM charging_session_requests WHERE decision IS NULL AND "deadlineAt" <= :now
    ORDER BY "deadlineAt" LIMIT :most""")
_UNDECIDED = text("""
    SELECT * FROM charging_session_requests WHERE decision IS NULL AND "deadlineAt" > :now
    ORDER BY "deadlineAt" LIMIT :most""")
_SAMPLES = text('SELECT * FROM meter_values WHERE "sessionId" = ANY(CAST(:ids AS uuid[]))')
_SILENT = text("""
    SELECT id FROM charging_sessions WHERE status = 'IN_PROGRESS' AND "updatedAt" < :before
    ORDER BY "updatedAt" LIMIT :most""")
_ACTIVE_CHARGERS = text("""
    SELECT s.id, s."chargerId", coalesce(s."connectorId", '') FROM charging_sessions s
    JOIN unnest(CAST(:chargers AS text[]), CAST(:connectors AS text[])) AS asked (charger, connector)
      ON s."chargerId" = asked.charger AND coalesce(s."connectorId", '') = asked.connector
    WHERE s.status = 'IN_PROGRESS' AND (s."requestId" IS NULL OR s."connectorId" IS NOT NULL)""")
_ACTIVE_DRIVERS = text("""
    SELECT s.id, s."stationId", s."driverId" FROM charging_sessions s
    JOIN unnest(CAST(:stations AS text[]), CAST(:drivers AS text[])) AS asked (station, driver)
      ON s."stationId" = asked.station AND s."driverId" = asked.driver
    WHERE s.status = 'IN_PROGRESS' AND s."requestId" IS NOT NULL AND s."connectorId" IS NULL""")
_PARKED = text("""
    SELECT * FROM parked_commands WHERE "sessionId" = ANY(CAST(:ids AS uuid[])) ORDER BY "receivedAt", "messageId" """)
_UNPARK = text('DELETE FROM parked_commands WHERE "messageId" = ANY(CAST(:ids AS uuid[]))')
_RESOLVE = text("""
    UPDATE inbox SET outcome = new.outcome, reason = new.reason
    FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS text[]), CAST(:reasons AS text[])) AS new (id, outcome, reason)
    WHERE "messageId" = new.id AND inbox.outcome = 'PARKED' """)
# What waits for a request has the request's time as well: its verdict brings the session, or turns it down.
_EXPIRED_PARKED = text("""
    SELECT "messageId", "sessionId" FROM parked_commands
    WHERE "expiresAt" BETWEEN :after AND :now AND NOT EXISTS (
        SELECT FROM charging_session_requests WHERE id = parked_commands."sessionId" AND decision IS NULL)
    ORDER BY "expiresAt" LIMIT :most""")
_TAKE_PARKED = text("""
    DELETE FROM parked_commands WHERE "messageId" = ANY(CAST(:ids AS uuid[])) AND NOT EXISTS (
        SELECT FROM charging_session_requests WHERE id = parked_commands."sessionId" AND decision IS NULL)
    RETURNING *""")
_OUTBOX_AGE = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min("createdAt")), 0) FROM outbox""")
_DELETE_OUTBOX = text("DELETE FROM outbox WHERE id = ANY(CAST(:ids AS uuid[]))")
_CLAIM_OUTBOX = text("""
    UPDATE outbox SET "claimedUntil" = :until WHERE id IN (
        SELECT id FROM outbox WHERE "createdAt" < :older_than AND ("claimedUntil" IS NULL OR "claimedUntil" < :now)
        ORDER BY "createdAt" LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING id, events""")

_UPSERT_SESSION = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(
    f'"{column.name}" = excluded."{column.name}"'
    for column in sessions.columns
    if column.name not in ("id", "createdAt")
)

# The decision and its time are written once, whoever comes second; only the count of events goes on.
_DECIDE_REQUEST = """ON CONFLICT (id) DO UPDATE SET
    decision = coalesce(charging_session_requests.decision, excluded.decision),
    reason = CASE WHEN charging_session_requests.decision IS NULL THEN excluded.reason
        ELSE charging_session_requests.reason END,
    "sessionId" = coalesce(charging_session_requests."sessionId", excluded."sessionId"),
    "decidedAt" = coalesce(charging_session_requests."decidedAt", excluded."decidedAt"),
    sequence = excluded.sequence"""


async def lock(tx: AsyncConnection, keys: Iterable[int]) -> None:
    """Wait for all locks, in one order; they end with the transaction."""
    await tx.execute(_LOCK, {"keys": sorted(set(keys))})


async def seen(tx: AsyncConnection, message_ids: Collection[UUID]) -> dict[UUID, bytes]:
    """Return the body hash of each of these messages that was handled before."""
    rows = await tx.execute(_SEEN, {"ids": list(message_ids)})
    return {message_id: bytes(body_hash) for message_id, body_hash in rows}


async def find_sessions(tx: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Session]:
    rows = await tx.execute(_SESSIONS, {"ids": list(ids)})
    return {row["id"]: session_of(row) for row in rows.mappings()}


async def find_requests(tx: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Request]:
    """Return those of these ids that are requests."""
    if not ids:
        return {}
    rows = await tx.execute(_REQUESTS, {"ids": list(ids)})
    return {row["id"]: request_of(row) for row in rows.mappings()}


async def find_pending(tx: AsyncConnection, ids: Collection[UUID]) -> list[Request]:
    """Return those of these requests that nobody has decided yet."""
    return [request_of(row) for row in (await tx.execute(_PENDING, {"ids": list(ids)})).mappings()]


async def overdue_requests(tx: AsyncConnection, now: datetime, most: int) -> list[UUID]:
    """Return pending requests whose deadline has passed."""
    return list((await tx.execute(_OVERDUE, {"now": now, "most": most})).scalars())


async def undecided_requests(tx: AsyncConnection, now: datetime, most: int) -> list[Request]:
    """Return pending requests that still have time."""
    return [request_of(row) for row in (await tx.execute(_UNDECIDED, {"now": now, "most": most})).mappings()]


async def find_samples(tx: AsyncConnection, session_ids: Collection[UUID]) -> dict[UUID, list[Sample]]:
    """Return all meter values of these sessions."""
    found: dict[UUID, list[Sample]] = {}
    if session_ids:
        for row in await tx.execute(_SAMPLES, {"ids": list(session_ids)}):
            found.setdefault(row.sessionId, []).append(Sample(row.measuredAt, row.meterWh, row.isTimed))
    return found


async def silent_sessions(tx: AsyncConnection, before: datetime, most: int) -> list[UUID]:
    """Return sessions in progress without a sign of life since."""
    return list((await tx.execute(_SILENT, {"before": before, "most": most})).scalars())


async def find_holders(tx: AsyncConnection, claims: Collection[Claim]) -> dict[Claim, UUID]:
    """Return the session that holds each claim, where one does."""
    holders: dict[Claim, UUID] = {}
    chargers = [claim for claim in claims if claim[0] == "charger"]
    if chargers:
        parameters = {"chargers": [c[1] for c in chargers], "connectors": [c[2] for c in chargers]}
        for holder, charger, connector in await tx.execute(_ACTIVE_CHARGERS, parameters):
            holders["charger", charger, connector] = holder
    drivers = [claim for claim in claims if claim[0] == "driver"]
    if drivers:
        parameters = {"stations": [c[1] for c in drivers], "drivers": [c[2] for c in drivers]}
        for holder, station, driver in await tx.execute(_ACTIVE_DRIVERS, parameters):
            holders["driver", station, driver] = holder
    return holders


async def find_parked(tx: AsyncConnection, session_ids: Collection[UUID]) -> dict[UUID, list[Received]]:
    """Return the commands that wait for these sessions, oldest first."""
    found: dict[UUID, list[Received]] = {}
    if session_ids:
        rows = await tx.execute(_PARKED, {"ids": list(session_ids)})
        for row in rows.mappings():
            found.setdefault(row["sessionId"], []).append(_parked(row))
    return found


async def save_sessions(tx: AsyncConnection, changed: Iterable[Session]) -> None:
    """Write the sessions, the ended ones first: they free what the others may claim."""
    rows = [session.row() for session in sorted(changed, key=lambda session: not session.has_ended)]
    if rows:
        await insert_rows(tx, sessions, rows, _UPSERT_SESSION)


async def save_requests(tx: AsyncConnection, taken: Sequence[Request]) -> None:
    """Write requests, new or changed; a decision is written once."""
    if taken:
        await insert_rows(tx, requests, [request.row() for request in taken], _DECIDE_REQUEST)


async def save_samples(tx: AsyncConnection, taken: Sequence[tuple[UUID, Sample]]) -> None:
    """Keep meter values; one that came before is kept already."""
    rows = [
        {"sessionId": session_id, "measuredAt": sample.at, "meterWh": sample.wh, "isTimed": sample.is_timed}
        for session_id, sample in taken
    ]
    if rows:
        await insert_rows(tx, meter_values, rows, "ON CONFLICT DO NOTHING")


async def save_adjustments(tx: AsyncConnection, made: Sequence[Adjustment], now: datetime) -> None:
    """Keep what meter values would have changed; a value whose message is forgotten and comes again changes nothing."""
    rows = [
        {
            "id": adjustment.id,
            "sessionId": adjustment.session_id,
            "measuredAt": adjustment.sample.at,
            "meterWh": adjustment.sample.wh,
            "energyKwh": adjustment.energy_kwh,
            "cost": adjustment.cost,
            "currency": adjustment.currency,
            "createdAt": now,
        }
        for adjustment in made
    ]
    if rows:
        await insert_rows(tx, session_adjustments, rows, "ON CONFLICT (id) DO NOTHING")


async def save_inbox(tx: AsyncConnection, handled: Sequence[tuple[Received, Resolution]], now: datetime) -> None:
    """Record each message with its outcome. A message that another worker recorded meanwhile fails the transaction."""
    rows = [
        {
            "messageId": resolution.message_id,
            "type": received.command.TYPE,
            "bodyHash": received.body_hash,
            "sessionId": received.session_id,
            "outcome": str(resolution.outcome),
            "reason": resolution.reason,
            "receivedAt": now,
        }
        for received, resolution in handled
    ]
    if rows:
        await insert_rows(tx, inbox, rows)


async def save_parked(tx: AsyncConnection, parked: Iterable[tuple[Received, datetime]]) -> None:
    """Keep the commands until their time, in case their session still comes."""
    rows = [
        {
            "messageId": received.message_id,
            "sessionId": received.session_id,
            "type": received.command.TYPE,
            "body": canonical_body(received.command).decode(),
            "client": received.client,
            "privileged": received.privileged,
            "receivedAt": received.accepted_at,
            "expiresAt": expires_at,
        }
        for received, expires_at in parked
    ]
    if rows:
        await insert_rows(tx, parked_commands, rows)


async def unpark(tx: AsyncConnection, resolutions: Sequence[Resolution]) -> None:
    """Give parked commands their outcome and forget their bodies."""
    if resolutions:
        await tx.execute(_UNPARK, {"ids": [resolution.message_id for resolution in resolutions]})
        await resolve(tx, resolutions)


async def resolve(tx: AsyncConnection, resolutions: Sequence[Resolution]) -> None:
    parameters: Mapping[str, list[Any]] = {
        "ids": [resolution.message_id for resolution in resolutions],
        "outcomes": [str(resolution.outcome) for resolution in resolutions],
        "reasons": [resolution.reason for resolution in resolutions],
    }
    await tx.execute(_RESOLVE, parameters)


async def expired_parked(tx: AsyncConnection, *, after: datetime, now: datetime, most: int) -> dict[UUID, UUID]:
    """Return message id and session id of parked commands whose time came between these; nothing is locked yet."""
    rows = await tx.execute(_EXPIRED_PARKED, {"after": after, "now": now, "most": most})
    return {row.messageId: row.sessionId for row in rows}


async def take_parked(tx: AsyncConnection, message_ids: Collection[UUID]) -> list[Received]:
    """Remove these parked commands and return those that were still there, and still wait for no request."""
    rows = await tx.execute(_TAKE_PARKED, {"ids": list(message_ids)})
    return [_parked(row) for row in rows.mappings()]


async def save_outbox(tx: AsyncConnection, outbox_id: UUID, events: str, now: datetime) -> None:
    row = {"id": outbox_id, "events": events, "createdAt": now, "claimedUntil": None}
    await insert_rows(tx, outbox, [row])


async def delete_outbox(tx: AsyncConnection, ids: Sequence[UUID]) -> None:
    if ids:
        await tx.execute(_DELETE_OUTBOX, {"ids": list(ids)})


async def outbox_age_s(tx: AsyncConnection) -> float:
    """Return for how long the oldest event has waited to be published, 0 where none does."""
    return float((await tx.execute(_OUTBOX_AGE)).scalar_one())


async def claim_outbox(
    tx: AsyncConnection, *, now: datetime, older_than: datetime, until: datetime, most: int
) -> list[tuple[UUID, str]]:
    """Take over rows that somebody should have published by now; nobody else does until `until`."""
    parameters = {"now": now, "older_than": older_than, "until": until, "most": most}
    rows = await tx.execute(_CLAIM_OUTBOX, parameters)
    return [(outbox_id, events) for outbox_id, events in rows]


def _parked(row: Mapping[Any, Any]) -> Received:
    return Received(
        command=parse_command(row["body"].encode(), row["type"]),
        message_id=row["messageId"],
        session_id=row["sessionId"],
        client=row["client"],
        privileged=row["privileged"],
        accepted_at=row["receivedAt"],
        body_hash=b"",
    )

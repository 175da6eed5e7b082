"""The tables that the session worker alone writes."""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Numeric, String, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

metadata = MetaData()
_TIME = DateTime(timezone=True)

sessions = Table(
    "charging_sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("chargerId", String(255)),
    Column("connectorId", String(36)),
    Column("stationId", String(255)),
    Column("driverId", String(255)),
    Column("requestId", Uuid),
    Column("status", String(16)),
    Column("phase", String(16)),
    Column("reason", String(255)),
    Column("finalCost", Numeric(10, 2)),
    Column("currency", String(3)),
    Column("energyKwh", Numeric),
    Column("metadata", JSONB),
    Column("startedAt", _TIME),
    Column("endedAt", _TIME),
    Column("createdAt", _TIME),
    Column("updatedAt", _TIME),
    Column("client", String(255)),
    Column("callbackUrl", String(2048)),
    Column("sequence", Integer),
    Column("tariff", JSONB),
    Column("meter", JSONB),
    Column("needsReview", Boolean),
    Column("reviewReason", String(64)),
    Column("payment", JSONB),
)

requests = Table(
    "charging_session_requests",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("stationId", String(255)),
    Column("driverId", String(255)),
    Column("connectorId", String(36)),
    Column("callbackUrl", String(2048)),
    Column("metadata", JSONB),
    Column("client", String(255)),
    Column("decision", String(16)),
    Column("reason", String(255)),
    Column("sessionId", Uuid),
    Column("decidedAt", _TIME),
    Column("createdAt", _TIME),
    Column("messageId", Uuid),
    Column("deadlineAt", _TIME),
    Column("sequence", Integer),
)

inbox = Table(
    "inbox",
    metadata,
    Column("messageId", Uuid, primary_key=True),
    Column("type", String(64)),
    Column("bodyHash", BYTEA),
    Column("sessionId", Uuid),
    Column("outcome", String(16)),
    Column("reason", String(64)),
    Column("receivedAt", _TIME),
)

parked_commands = Table(
    "parked_commands",
    metadata,
    Column("messageId", Uuid, primary_key=True),
    Column("sessionId", Uuid),
    Column("type", String(64)),
    Column("body", Text),
    Column("client", String(255)),
    Column("privileged", Boolean),
    Column("receivedAt", _TIME),
    Column("expiresAt", _TIME),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("events", Text),
    Column("createdAt", _TIME),
    Column("claimedUntil", _TIME),
)

meter_values = Table(
    "meter_values",
    metadata,
    Column("sessionId", Uuid, primary_key=True),
    Column("measuredAt", _TIME, primary_key=True),
    Column("meterWh", Numeric, primary_key=True),
    Column("isTimed", Boolean, primary_key=True),
)

session_adjustments = Table(
    "session_adjustments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sessionId", Uuid),
    Column("measuredAt", _TIME),
    Column("meterWh", Numeric),
    Column("energyKwh", Numeric),
    Column("cost", Numeric(10, 2)),
    Column("currency", String(3)),
    Column("createdAt", _TIME),
)

drivers = Table(
    "drivers",
    metadata,
    Column("driverId", String(255), primary_key=True),
    Column("status", String(16)),
    Column("validFrom", _TIME),
    Column("validUntil", _TIME),
    Column("stations", JSONB),
    Column("reason", String(255)),
    Column("updatedAt", _TIME),
)

stations = Table(
    "stations",
    metadata,
    Column("stationId", String(255), primary_key=True),
    Column("open", Boolean),
    Column("reason", String(255)),
    Column("updatedAt", _TIME),
)

tariffs = Table(
    "tariffs",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("currency", String(3)),
    Column("flat", Numeric),
    Column("perKwh", Numeric),
    Column("perHour", Numeric),
    Column("perIdleHour", Numeric),
    Column("stepWh", Integer),
    Column("stepSeconds", Integer),
    Column("minimum", Numeric),
    Column("maximum", Numeric),
    Column("taxPercent", Numeric),
    Column("chargerIds", JSONB),
    Column("updatedAt", _TIME),
)

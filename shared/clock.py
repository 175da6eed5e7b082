"""The clock that processes pass in; rules and tests take the time as an argument."""

from datetime import UTC, datetime


def now_utc() -> datetime:
    """Return the time, aware and in UTC."""
    return datetime.now(UTC)

"""What is too old: to be kept, or to be applied. Pure."""

from datetime import datetime, timedelta
from typing import Final

# Clocks differ, and a message is on its way: what goes is older than its setting says, what is refused is not.
MARGIN: Final = timedelta(days=1)


def cutoff(now: datetime, days: int) -> datetime | None:
    """Return before when a thing is too old to be kept; None where it is kept for ever."""
    return now - timedelta(days=days) - MARGIN if days else None


def doubt(database: datetime, own: datetime) -> str | None:
    """Return why no clock is believed, or None: by one that is wrong, all that is not owed would be too old at once."""
    apart = abs(database - own)
    return f"the database's clock and this host's are {apart.days:,} days apart" if apart > MARGIN else None


def is_forgotten(minted_at: datetime | None, now: datetime, days: int) -> bool:
    """Whether a message made then is older than the inbox remembers: nobody knows any more if it was handled."""
    return minted_at is not None and days > 0 and minted_at < now - timedelta(days=days)

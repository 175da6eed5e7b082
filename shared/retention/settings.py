"""For how long things are kept: settings of the workers and of `python -m ops maintain`, in days; 0 is for ever."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Days = Annotated[int, Field(ge=0, le=36_500)]

# A message may come again for as long as its queue is down or its sender repeats it: Stripe does so for three days,
# and an outage of a week is the longest that is planned for.
MESSAGE_LIFETIME_DAYS = 7
# Ten years from the end of their year, as long as many countries want books to be kept.
BOOKS_DAYS = 4_018
_DAY_S = 86_400


class InboxRetention(BaseSettings):
    """How long a handled message is remembered at least; the same for both workers."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # Four times the lifetime of a message.
    inbox_retention_days: Days = 30

    @field_validator("inbox_retention_days")
    @classmethod
    def _outlives_messages(cls, days: int) -> int:
        return _at_least(
            days, f"{MESSAGE_LIFETIME_DAYS} days, and not less than CALLBACK_EXPIRES_S", MESSAGE_LIFETIME_DAYS
        )


class SessionRetention(InboxRetention):
    """How long sessions are kept after their last change, with all that belongs to them."""

    # Nobody's books; long enough to ask why a driver was turned away.
    refused_retention_days: Days = 90
    # Without a price here they may still be priced elsewhere, from an export.
    session_retention_days: Days = BOOKS_DAYS
    payment_retention_days: Days = BOOKS_DAYS


class CallbackRetention(InboxRetention):
    """How long the log of callbacks is kept; what is in it can be sent again."""

    callback_expires_s: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] = 259_200
    # A quarter: a subscriber that looks at its accounts can still ask for what failed.
    callback_log_retention_days: Days = 90

    @field_validator("callback_expires_s")
    @classmethod
    def _ends_before_it_is_forgotten(cls, expires_s: float, info: ValidationInfo) -> float:
        """A redelivery may wait so long for its attempt, and is remembered for as long at least."""
        days = info.data.get("inbox_retention_days") or 0
        if days and expires_s > days * _DAY_S:
            raise ValueError(f"must be at most {days * _DAY_S}, as INBOX_RETENTION_DAYS is {days}")
        return expires_s

    @field_validator("callback_log_retention_days")
    @classmethod
    def _outlives_deliveries(cls, days: int, info: ValidationInfo) -> int:
        """A delivery that is gone from the log would be made anew by an event that comes again."""
        expires_s = info.data.get("callback_expires_s")
        if expires_s is None:
            return days
        least = MESSAGE_LIFETIME_DAYS + -int(-expires_s // _DAY_S)
        return _at_least(days, f"CALLBACK_EXPIRES_S plus {MESSAGE_LIFETIME_DAYS} days, here {least} days", least)


def _at_least(days: int, what: str, least: int) -> int:
    if 0 < days < least:
        raise ValueError(f"must be 0 (for ever) or at least {what}")
    return days

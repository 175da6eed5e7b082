"""The rules of a delivery, pure: what an attempt's result means and when, if ever, the next attempt is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from uuid import UUID

from shared.callbacks import Reason, State

# Spreads the retries of many deliveries that failed together. Upwards only: the schedule is a floor.
MAX_JITTER = 0.1
# Between an attempt's deadline and the end of its lease the result is written; what workers' readings of the database's
# clock differ by is far less.
LEASE_MARGIN_S = 10.0
# Any 4xx that does not ask for patience: once more, in case the subscriber was in mid-deployment.
REJECTED_AFTER_ATTEMPTS = 2

_GONE = 410
_THROTTLED = 429
# Request Timeout and Too Early ask for another try, as 429 does.
_PATIENT = (408, 425, _THROTTLED)


class Outcome(StrEnum):
    """What became of an attempt; all but the first four are failure classes."""

    OPEN = "open"  # in hand
    AMBIGUOUS = "ambiguous"  # its worker did not live to tell
    NOT_MADE = "not_made"  # given back before anything was sent; the number is used again
    DELIVERED = "delivered"  # 2xx
    REFUSED_STATUS = "refused_status"  # 3xx, 4xx
    THROTTLED = "throttled"  # 429
    SERVER_ERROR = "server_error"  # 5xx
    # The deadline, or a limit within it, by where it struck.
    TIMEOUT_DNS = "timeout_dns"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_TLS = "timeout_tls"
    TIMEOUT_RESPONSE = "timeout_response"
    DNS = "dns"
    CONNECTION = "connection"
    TLS = "tls"
    PROTOCOL = "protocol"  # the answer is not HTTP
    TOO_LARGE = "too_large"  # headers beyond the limit
    BLOCKED = "blocked"  # the policy of URLs, addresses and ports; nothing was dialled


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for every delivery. `schedule_s` is the wait before each attempt."""

    schedule_s: tuple[float, ...]
    timeout_s: float
    expires_s: float

    @property
    def lease_s(self) -> float:
        """How long a claimed delivery belongs to its worker: longer than any attempt."""
        return self.timeout_s + LEASE_MARGIN_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One HTTP request to make. `number` is the fencing id: only who opened it may close it.

    `redelivery` is the message id of the command that asked for a manual one; `manual_count` says how many manual ones
    the delivery has had, which take no place in the schedule.
    """

    callback_id: UUID
    event_id: UUID
    number: int
    client: str | None = None
    redelivery: UUID | None = None
    manual_count: int = 0
    is_probe: bool = False  # it finds out whether a host whose breaker is open is back
    url: str
    destination: str  # host name and port: what slots and breakers are kept by
    body: str
    expires_at: datetime
    leased_until: datetime

    @property
    def place(self) -> int:
        """The attempt's place in the schedule, from 1."""
        return self.number - self.manual_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How an attempt ended. `retry_after_s` is the subscriber's wish, however long, even infinite."""

    outcome: Outcome
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response_body: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """What a delivery becomes after an attempt; `next_attempt_at` is set while PENDING."""

    state: State
    reason: Reason | None = None
    next_attempt_at: datetime | None = None


def outcome_of(status: int) -> Outcome:
    """Return the class of a final status line."""
    if 200 <= status <= 299:
        return Outcome.DELIVERED
    if status == _THROTTLED:
        return Outcome.THROTTLED
    if 300 <= status <= 499:
        return Outcome.REFUSED_STATUS
    return Outcome.SERVER_ERROR if 500 <= status <= 599 else Outcome.PROTOCOL


def next_state(attempt: Attempt, result: Result, schedule_s: Sequence[float], *, now: datetime, chance: float) -> Next:
    """Return what follows. `schedule_s` holds the wait before each attempt, `chance` in [0, 1) the jitter.

    Schedule and Retry-After are both floors: what neither lets come before the expiry has expired now.
    """
    if result.outcome is Outcome.DELIVERED:
        return Next(State.DELIVERED)
    final = _final_reason(result, attempt.place)
    if final is not None:
        return Next(State.FAILED, final)
    if attempt.place >= len(schedule_s):
        return Next(State.FAILED, Reason.EXHAUSTED)
    left_s = (attempt.expires_at - now).total_seconds()
    wait_s = max(schedule_s[attempt.place] * (1 + MAX_JITTER * chance), result.retry_after_s or 0.0)
    if wait_s >= left_s:
        return Next(State.FAILED, Reason.EXPIRED)
    return Next(State.PENDING, next_attempt_at=now + timedelta(seconds=wait_s))


def _final_reason(result: Result, place: int) -> Reason | None:
    """Return why no further attempt is made whatever the schedule says, or None."""
    status = result.status_code
    if result.outcome is Outcome.BLOCKED:
        return Reason.BLOCKED
    if status == _GONE:
        return Reason.GONE
    if status is None or status in _PATIENT or not 300 <= status <= 499:
        return None
    return Reason.REJECTED if status < 400 or place >= REJECTED_AFTER_ATTEMPTS else None


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110 §10.2.3: seconds or a date), None for nonsense.

    Seconds of more than three hundred digits are infinitely many.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A date without a zone is UTC, as every HTTP date is.
    left_s = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return left_s if math.isfinite(left_s) and left_s > 0 else None

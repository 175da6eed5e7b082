"""Who may charge: the verdict on a request, pure. `open` allows all, `acl` looks at two tables, `http` asks a service.

A verdict is a decision with its reason code. None in its place means: not known yet.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from session_worker.session import Reason
from shared.commands import DriverStatus
from shared.resources import Decision


class Authorization(StrEnum):
    """Where verdicts come from."""

    OPEN = "open"
    ACL = "acl"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, with its reason where it is not `allowed`."""

    decision: Decision
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One row of `drivers`; `stations` None is anywhere."""

    status: DriverStatus
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    stations: Collection[str] | None = None


ALLOWED: Final = Verdict(Decision.ALLOWED)
TIMED_OUT: Final = Verdict(Decision.UNKNOWN, Reason.AUTHORIZATION_TIMEOUT)
FAILED: Final = Verdict(Decision.UNKNOWN, Reason.AUTHORIZATION_FAILED)
UNKNOWN_DRIVER: Final = Verdict(Decision.INVALID, Reason.UNKNOWN_DRIVER)

_VERDICT_OF: Final[Mapping[str, Verdict]] = {
    "ALLOWED": ALLOWED,
    "BLOCKED": Verdict(Decision.NOT_ALLOWED, Reason.BLOCKED),
    "EXPIRED": Verdict(Decision.NOT_ALLOWED, Reason.EXPIRED),
    "NO_CREDIT": Verdict(Decision.NOT_ALLOWED, Reason.NO_CREDIT),
    "NOT_ALLOWED": Verdict(Decision.NOT_ALLOWED, Reason.NOT_ALLOWED),
}


def acl_verdict(driver: Driver | None, station_is_open: bool | None, station_id: str, now: datetime) -> Verdict:
    """Judge by the tables; `station_is_open` None is a station that nobody knows."""
    if driver is None:
        return UNKNOWN_DRIVER
    if driver.status is not DriverStatus.ALLOWED:
        return _VERDICT_OF[driver.status]
    if driver.valid_until is not None and now >= driver.valid_until:
        return _VERDICT_OF["EXPIRED"]
    is_early = driver.valid_from is not None and now < driver.valid_from
    if is_early or (driver.stations is not None and station_id not in driver.stations):
        return _VERDICT_OF["NOT_ALLOWED"]
    if station_is_open is None:
        return Verdict(Decision.NOT_ALLOWED, Reason.UNKNOWN_STATION)
    return ALLOWED if station_is_open else Verdict(Decision.NOT_ALLOWED, Reason.STATION_CLOSED)


def http_verdict(status: int, body: Any) -> Verdict:
    """Judge by the service's answer: OCPI's real-time authorization, plain or in OCPI's `data`; 404 is no such driver.

    Anything else is `unknown`: a service that answers nonsense has not decided.
    """
    if status == 404:
        return UNKNOWN_DRIVER
    if status != 200 or not isinstance(body, dict):
        return FAILED
    inner = body.get("data")
    allowed = (inner if isinstance(inner, dict) else body).get("allowed")
    return _VERDICT_OF.get(allowed, FAILED) if isinstance(allowed, str) else FAILED

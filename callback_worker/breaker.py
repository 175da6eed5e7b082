"""Whether a host is worth sending to, pure: a breaker over what its attempts tell, whichever worker makes them.

Open, it lets one probe through at a time, first after a second, then ever later. It opens where failures are many, of
many deliveries, and last: no delivery alone, and no retry schedule that is over within a few seconds, ever meets it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from callback_worker.delivery import Outcome

# Below some twenty failures of ten deliveries in half a minute a host holds few slots: the caps are enough.
WINDOW_S = 30.0
FAILURES_TO_OPEN = 20
DELIVERIES_TO_OPEN = 10
# A restart or a deployment is over by then, and the first retries have told whether it was one.
LASTING_S = 10.0
# A backlog whose attempts fail at once does not hold slots, but it takes processor time from everybody. Not before a
# short schedule (0, 1, 1, 2) is over: many callbacks that each fail a few times are no dead host.
FAILURES_AT_ONCE = 200
AT_ONCE_LASTING_S = 5.0
# A few answers among the failures do not make a host worth all of its slots.
FAILING_SHARE = 0.8
# Doubled by each probe that fails. The bound is the longest that a host which is back waits to be noticed; four probes
# a minute burden nobody.
OPEN_FIRST_S = 1.0
OPEN_MOST_S = 15.0
# Shortens only, so that the bound is one; workers and hosts that failed together do not probe together.
OPEN_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Sign:
    """What one attempt says about its host: `failed` is None where it says nothing."""

    callback_id: UUID
    failed: bool | None
    lasted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A host that fails, or did a moment ago. The counts are of a window; a streak has no answer between its failures.

    While `open_until` is set the breaker is open, and `probe_id` is the delivery that finds out, once there is one.
    """

    window_ends_at: datetime
    success_count: int = 0
    failure_count: int = 0
    failing_ids: tuple[UUID, ...] = ()
    streak_count: int = 0
    streak_began_at: datetime | None = None
    open_count: int = 0
    open_until: datetime | None = None
    probe_id: UUID | None = None
    probe_until: datetime | None = None


def is_failure(outcome: Outcome) -> bool | None:
    """Whether the host failed; a refusal is an answer. None where nothing was asked of it."""
    match outcome:
        case Outcome.DELIVERED | Outcome.REFUSED_STATUS:
            return False
        case Outcome.TIMEOUT_DNS | Outcome.TIMEOUT_CONNECT | Outcome.TIMEOUT_TLS | Outcome.TIMEOUT_RESPONSE:
            return True
        case Outcome.DNS | Outcome.CONNECTION | Outcome.TLS | Outcome.PROTOCOL | Outcome.TOO_LARGE:
            return True
        case Outcome.SERVER_ERROR | Outcome.THROTTLED:  # 429 asks for less, and this is how it gets less
            return True
        case Outcome.BLOCKED | Outcome.OPEN | Outcome.AMBIGUOUS | Outcome.NOT_MADE:
            return None
    assert_never(outcome)


def after(health: Health | None, signs: Iterable[Sign], *, now: datetime, chance: float) -> Health | None:
    """Return what is known of the host after these attempts, in their order; None is nothing against it."""
    for sign in signs:
        health = _after_one(health, sign, now, chance)
    return health


def is_forgotten(health: Health, now: datetime) -> bool:
    """Whether this is too old to say anything."""
    return health.open_until is None and now >= health.window_ends_at + timedelta(seconds=WINDOW_S)


def _after_one(health: Health | None, sign: Sign, now: datetime, chance: float) -> Health | None:
    if health is not None and health.open_until is not None:
        # What was sent before it opened, or was sent by hand, is not what finds out.
        return _after_probe(health, sign, now, chance) if sign.callback_id == health.probe_id else health
    if health is not None and is_forgotten(health, now):
        health = None
    if sign.failed:
        failing = _failed(_in_window(health or Health(window_ends_at=now), now), sign, now)
        return _opened(failing, now, chance) if _is_dead(failing, now) else failing
    if health is None or sign.failed is None:
        return health
    health = _in_window(health, now)
    return replace(health, success_count=health.success_count + 1, streak_count=0, streak_began_at=None)


def _after_probe(health: Health, sign: Sign, now: datetime, chance: float) -> Health | None:
    if sign.failed is None:  # it was not sent: another one finds out
        return replace(health, probe_id=None, probe_until=None)
    return _opened(health, now, chance) if sign.failed else None


def _in_window(health: Health, now: datetime) -> Health:
    """Return it with a new window where the last one is over; a streak of failures goes on."""
    if now < health.window_ends_at:
        return health
    ends_at = now + timedelta(seconds=WINDOW_S)
    return replace(health, window_ends_at=ends_at, success_count=0, failure_count=0, failing_ids=())


def _failed(health: Health, sign: Sign, now: datetime) -> Health:
    known = health.failing_ids
    is_new = sign.callback_id not in known and len(known) < DELIVERIES_TO_OPEN
    return replace(
        health,
        failure_count=health.failure_count + 1,
        failing_ids=(*known, sign.callback_id) if is_new else known,
        streak_count=health.streak_count + 1,
        # From the first attempt's beginning: a host that hangs was silent all that time.
        streak_began_at=health.streak_began_at or now - timedelta(seconds=sign.lasted_s),
    )


def _is_dead(health: Health, now: datetime) -> bool:
    assert health.streak_began_at is not None
    if len(health.failing_ids) < DELIVERIES_TO_OPEN:
        return False
    streak_s = (now - health.streak_began_at).total_seconds()
    if health.streak_count >= FAILURES_AT_ONCE and streak_s >= AT_ONCE_LASTING_S:
        return True
    if health.streak_count >= FAILURES_TO_OPEN and streak_s >= LASTING_S:
        return True
    has_lasted = now >= health.window_ends_at - timedelta(seconds=WINDOW_S - LASTING_S)
    share = health.failure_count / (health.failure_count + health.success_count)
    return has_lasted and health.failure_count >= FAILURES_TO_OPEN and share >= FAILING_SHARE


def _opened(health: Health, now: datetime, chance: float) -> Health:
    open_s = min(OPEN_MOST_S, OPEN_FIRST_S * 2 ** min(health.open_count, 30)) * (1 - OPEN_JITTER * chance)
    return replace(
        health,
        open_count=health.open_count + 1,
        open_until=now + timedelta(seconds=open_s),
        probe_id=None,
        probe_until=None,
    )

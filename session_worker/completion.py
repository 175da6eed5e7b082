"""The end of a session, pure: its energy, its price, and whether somebody should look before anybody bills it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from session_worker.session import Received, Review, Session
from shared.meter import Meter, Sample, energy_kwh, usage
from shared.pricing import exact_price, price, rounded
from shared.resources import Phase

# What a session can plausibly be; beyond, somebody looks before anybody bills.
LONGEST: Final = timedelta(hours=72)
MOST_ENERGY_KWH: Final = Decimal(1000)
CLOCK_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """What a meter value that came after the end would have changed; one row of `session_adjustments`.

    `cost` is None where it is not known, or too high, as `final_cost` is.
    """

    id: UUID
    session_id: UUID
    sample: Sample
    energy_kwh: Decimal
    cost: Decimal | None
    currency: str | None


def complete(session: Session, ended_at: datetime, stated_kwh: Decimal | None, now: datetime) -> Session:
    """Complete the session, without a price; what is not plausible is for somebody to look at."""
    energy = energy_kwh(session.meter) if stated_kwh is None else stated_kwh
    ended = replace(session, phase=Phase.COMPLETED, energy_kwh=energy, ended_at=ended_at, updated_at=now)
    return replace(ended, review=session.review or _implausible(ended, now))


def price_by_tariff(ended: Session) -> Session:
    """Price a completed session by its tariff; what somebody should look at first has no price."""
    if ended.review is not None or ended.tariff is None:
        return ended
    assert ended.ended_at is not None
    used = usage(ended.meter, ended.energy_kwh, ended.started_at or ended.created_at, ended.ended_at)
    amount = exact_price(ended.tariff, used)
    return ended if amount is None else charge(ended, amount, ended.tariff.currency)


def charge(ended: Session, amount: Decimal, currency: str) -> Session:
    """Let a completed session cost this, rounded; what is too high to be written down is for somebody to look at."""
    cost = rounded(amount, currency)
    review = ended.review or (Review.COST_TOO_HIGH if cost is None else None)
    return replace(ended, final_cost=cost, currency=currency, review=review)


def _implausible(session: Session, now: datetime) -> Review | None:
    began, ended = session.started_at or session.created_at, session.ended_at
    assert ended is not None
    if ended < began:
        return Review.ENDED_BEFORE_START
    if ended > now + CLOCK_SKEW:
        return Review.CLOCK_SKEW
    if ended - began > LONGEST:
        return Review.TOO_LONG
    if session.energy_kwh is not None and session.energy_kwh > MOST_ENERGY_KWH:
        return Review.TOO_MUCH_ENERGY
    return None


def adjust(session: Session, sample: Sample, meter: Meter | None, received: Received) -> Adjustment | None:
    """Return what a meter value after the end would have changed; one that changes nothing makes none."""
    energy = energy_kwh(meter)
    if energy is None or meter == session.meter:
        return None
    ended_at = session.ended_at or sample.at
    used = usage(meter, energy, session.started_at or session.created_at, ended_at)
    return Adjustment(
        id=received.message_id,
        session_id=session.id,
        sample=sample,
        energy_kwh=energy,
        cost=None if session.tariff is None else price(session.tariff, used),
        currency=session.currency,
    )

"""Meter values, prices, plausibility and time: what a session costs, and when nobody should bill it unseen."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from session_worker.decide import Facts, decide, expire
from session_worker.payments.rules import Terms
from session_worker.session import Outcome, Reason, Review, Session
from shared.events import EventType
from shared.fields import MAX_METER_WH, MAX_UNIT_PRICE
from shared.meter import Sample
from shared.pricing import MAX_COST, Tariff
from shared.resources import Phase
from tests.builders import NOW, cancel, meter, start, stop

TARIFF = Tariff(name="default", currency="EUR", flat=Decimal(1), per_kwh=Decimal("0.50"), per_hour=Decimal(6))
TERMS = Terms(provider="sandbox", minimum_minor={"EUR": 50})
HOUR = timedelta(hours=1)
SANDBOX = Terms(provider="sandbox", minimum_minor={})


def started(tariff: Tariff | None = TARIFF) -> Session:
    session = decide(None, start(uuid4()), Facts(now=NOW, tariff=tariff)).session
    assert session is not None
    return session


def after(session: Session, *commands: object, now: object = NOW) -> Session:
    """The session after these commands, which all come at `now`."""
    samples: tuple[Sample, ...] = ()
    for command in commands:
        decided = decide(session, command, Facts(now=now, samples=samples))  # type: ignore[arg-type]
        assert decided.outcome is Outcome.APPLIED, decided.reason
        samples += decided.samples
        session = decided.session or session
    return session


def measured(session: Session, *registers: float) -> list[object]:
    """One register every half hour from the start on."""
    return [meter(session.id, wh, fields={"measured_at": NOW + index * HOUR / 2}) for index, wh in enumerate(registers)]


def test_a_session_is_priced_once_by_the_tariff_that_was_frozen_at_its_start() -> None:
    session = started()
    assert session.currency == "EUR"
    ended = after(session, *measured(session, 0, 5000, 10000), stop(session.id, accepted_at=NOW + HOUR), now=NOW + HOUR)
    assert (ended.energy_kwh, ended.final_cost) == (Decimal(10), Decimal("12.00"))
    assert ended.review is None


def test_the_energy_that_a_stop_states_goes_before_the_meters() -> None:
    session = started()
    told = stop(session.id, accepted_at=NOW + HOUR, fields={"energy_kwh": Decimal(2)})
    ended = after(session, *measured(session, 0, 5000), told, now=NOW + HOUR)
    assert (ended.energy_kwh, ended.final_cost) == (Decimal(2), Decimal("8.00"))


def test_a_cost_that_a_privileged_caller_states_wins() -> None:
    session = started()
    assert after(session, stop(session.id, fields={"final_cost": Decimal("4.2")})).final_cost == Decimal("4.20")


def test_without_a_tariff_or_without_energy_the_cost_is_unknown() -> None:
    bare, unmeasured = started(None), started()
    assert after(bare, stop(bare.id, fields={"energy_kwh": Decimal(5)})).final_cost is None
    assert after(unmeasured, stop(unmeasured.id)).final_cost is None


@pytest.mark.parametrize(
    ("fields", "accepted_after", "review"),
    [
        ({"ended_at": NOW - HOUR}, HOUR, Review.ENDED_BEFORE_START),
        ({"ended_at": NOW + 2 * HOUR}, HOUR, Review.CLOCK_SKEW),
        ({}, 73 * HOUR, Review.TOO_LONG),
        ({"energy_kwh": Decimal(1001)}, HOUR, Review.TOO_MUCH_ENERGY),
    ],
)
def test_what_is_not_plausible_is_for_review_and_not_billed(
    fields: dict[str, object], accepted_after: timedelta, review: Review
) -> None:
    session = started()
    stated = {"energy_kwh": Decimal(10), **fields}
    then = NOW + accepted_after
    ended = after(session, stop(session.id, accepted_at=then, fields=stated), now=then)
    assert (ended.phase, ended.review, ended.final_cost) == (Phase.COMPLETED, review, None)
    assert ended.row()["needsReview"] is True


DEAREST = Tariff(name="default", currency="EUR", per_kwh=MAX_UNIT_PRICE)
YEN = Tariff(name="default", currency="JPY", per_kwh=Decimal("0.5"), tax_percent=Decimal(19))


@pytest.mark.parametrize(
    ("tariff", "fields"),
    [
        (DEAREST, {"energy_kwh": Decimal(100)}),
        (YEN, {"final_cost": MAX_COST}),
        (replace(YEN, minimum=MAX_COST), {"energy_kwh": Decimal(1)}),
    ],
    ids=["by the tariff", "named, then rounded to the currency", "with the tax on the minimum"],
)
def test_a_cost_that_does_not_fit_is_not_known_and_for_review(tariff: Tariff, fields: dict[str, object]) -> None:
    session = started(tariff)
    decided = decide(session, stop(session.id, fields=fields), Facts(now=NOW, terms=SANDBOX))
    ended = decided.session
    assert ended is not None
    assert (decided.outcome, ended.phase) == (Outcome.APPLIED, Phase.COMPLETED)
    assert (ended.review, ended.final_cost, ended.currency) == (Review.COST_TOO_HIGH, None, tariff.currency)
    assert decided.payment is None
    assert [event.data["finalCost"] for event in decided.events] == [None]


def test_a_cost_that_somebody_names_wins_over_a_tariff_that_gives_too_much() -> None:
    session = started(DEAREST)
    ended = after(session, stop(session.id, fields={"energy_kwh": Decimal(100), "final_cost": MAX_COST}))
    assert (ended.review, ended.final_cost) == (None, MAX_COST)


def test_an_adjustment_whose_cost_does_not_fit_has_none() -> None:
    session = started()
    first, last = measured(session, 0, float(MAX_METER_WH))
    ended = after(session, first, stop(session.id))
    (adjustment,) = decide(ended, last, Facts(now=NOW + HOUR)).adjustments  # type: ignore[arg-type]
    assert (adjustment.energy_kwh, adjustment.cost, adjustment.currency) == (Decimal(10**9), None, "EUR")


def test_an_amount_has_two_places_whatever_the_currency() -> None:
    """What an event says of a session is what is read of it, and what its payment says."""
    session = started(YEN)
    told = stop(session.id, fields={"energy_kwh": Decimal(20)})
    (event,) = decide(session, told, Facts(now=NOW, terms=SANDBOX)).events
    assert (event.data["finalCost"], event.data["payment"]["amount"]) == ("12.00", "12.00")
    assert event.data["energyKwh"] == "20"


def test_a_meter_whose_clock_runs_ahead_is_for_review() -> None:
    session = started()
    ahead = meter(session.id, 5, fields={"measured_at": NOW + timedelta(minutes=6)})
    assert after(session, ahead).review is Review.CLOCK_SKEW


def test_meter_values_in_any_order_give_the_same_energy() -> None:
    session = started()
    first, second, third = measured(session, 100, 600, 700)
    in_order = after(session, first, second, third)
    assert after(session, third, first, second, second).energy_kwh == in_order.energy_kwh == Decimal("0.6")


def test_a_meter_value_after_the_end_makes_an_adjustment_and_leaves_the_session() -> None:
    session = started()
    samples = measured(session, 0, 5000)
    ended = after(session, *samples, stop(session.id, accepted_at=NOW + HOUR), now=NOW + HOUR)
    late = meter(session.id, 10000, fields={"measured_at": NOW + HOUR})
    decided = decide(ended, late, Facts(now=NOW + 2 * HOUR))
    assert decided.session is None
    assert [(each.energy_kwh, each.cost) for each in decided.adjustments] == [(Decimal(10), Decimal("12.00"))]
    again = decide(ended, samples[-1], Facts(now=NOW + 2 * HOUR, samples=_samples(samples)))  # type: ignore[arg-type]
    assert again.adjustments == ()


def test_a_session_whose_whole_story_overtook_its_start_is_priced_owed_and_adjusted() -> None:
    session_id, facts = uuid4(), Facts(now=NOW + 3 * HOUR, tariff=TARIFF, terms=TERMS)
    parked = (
        meter(session_id, 0, accepted_at=NOW + HOUR / 2),
        stop(session_id, accepted_at=NOW + HOUR, fields={"energy_kwh": Decimal(10)}),
        meter(session_id, 12000, accepted_at=NOW + 2 * HOUR, fields={"measured_at": NOW + HOUR}),
    )
    decided = decide(None, start(session_id), replace(facts, parked=parked))
    assert decided.session is not None
    assert (decided.session.phase, decided.session.final_cost) == (Phase.COMPLETED, Decimal("12.00"))
    assert [event.type for event in decided.events] == [EventType.SESSION_STARTED, EventType.SESSION_COMPLETED]
    assert decided.payment is not None
    assert (len(decided.samples), [each.energy_kwh for each in decided.adjustments]) == (2, [Decimal(12)])
    assert {each.outcome for each in decided.unparked} == {Outcome.APPLIED}


def _samples(commands: list[object]) -> tuple[Sample, ...]:
    return tuple(
        Sample(c.command.measured_at, c.command.meter_wh, is_timed=True)  # type: ignore[attr-defined]
        for c in commands
    )


def test_a_cancelled_session_takes_no_meter_values() -> None:
    session = started()
    cancelled = after(session, cancel(session.id))
    decided = decide(cancelled, meter(session.id, 5), Facts(now=NOW))
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.ALREADY_ENDED)


def test_a_session_without_a_sign_of_life_ends_for_review_and_unbilled() -> None:
    session = started()
    decided = expire(after(session, *measured(session, 0, 7000)), uuid4(), NOW + 30 * HOUR)
    ended = decided.session
    assert ended is not None
    assert (ended.phase, ended.reason, ended.review) == (Phase.COMPLETED, "STALE", Review.STALE)
    assert (ended.energy_kwh, ended.final_cost, ended.ended_at) == (Decimal(7), None, NOW + HOUR / 2)


def test_parked_meter_values_are_counted_when_the_session_starts() -> None:
    session_id = uuid4()
    early = (
        meter(session_id, 300, fields={"measured_at": NOW + HOUR / 2}),
        meter(session_id, 100, fields={"measured_at": NOW}),
        meter(session_id, 200, fields={"measured_at": NOW + HOUR / 4}),
    )
    decided = decide(None, start(session_id), Facts(now=NOW, parked=early))
    assert decided.session is not None
    assert decided.session.energy_kwh == Decimal("0.2")
    assert [resolution.outcome for resolution in decided.unparked] == [Outcome.APPLIED] * 3
    assert len(decided.samples) == 3


def test_a_session_survives_its_row() -> None:
    from session_worker.session import session_of  # noqa: PLC0415

    session = after(started(), *measured(started(), 0, 5))
    assert session_of(session.row()) == replace(session)

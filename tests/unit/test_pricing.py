"""The price: OCPI's own arithmetic, one rounding, null where it is not known."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fields import MAX_ENERGY_KWH, MAX_UNIT_PRICE
from shared.pricing import MAX_COST, Tariff, Usage, exact_price, price, rounded, tariff_json, tariff_of

D = Decimal


def tariff(**parts: object) -> Tariff:
    return Tariff(name="default", **({"currency": "EUR"} | parts))  # type: ignore[arg-type]


def usage(energy_wh: object = 0, minutes: int = 0, idle_minutes: int = 0) -> Usage:
    energy = None if energy_wh is None else D(str(energy_wh))
    return Usage(energy_wh=energy, charging_s=D(minutes * 60), idle_s=D(idle_minutes * 60))


@pytest.mark.parametrize(("step_wh", "expected"), [(1, "0.029"), (25, "0.03125"), (500, "0.125")])
def test_ocpis_step_size_examples(step_wh: int, expected: str) -> None:
    """115.2 Wh at 0.25 per kWh: what is charged for is rounded up to the step."""
    assert exact_price(tariff(per_kwh=D("0.25"), step_wh=step_wh), usage(D("115.2"))) == D(expected)


def test_ocpis_example_of_charging_and_idle_time() -> None:
    """2.50 flat, 165 min at 1.00 per hour, 45 min idle at 5.00 per hour."""
    parts = {"flat": D("2.50"), "per_hour": D("1.00"), "per_idle_hour": D("5.00")}
    assert price(tariff(**parts), usage(minutes=165, idle_minutes=45)) == D("9.00")


@pytest.mark.parametrize(
    ("parts", "used", "expected"),
    [
        ({}, usage(), "0.00"),
        ({"per_kwh": D("0.30")}, usage(12340), "3.70"),
        ({"per_kwh": D("0.25"), "currency": "JPY"}, usage(10000), "3"),
        ({"flat": D("0.005")}, usage(), "0.01"),
        ({"flat": D("0.004")}, usage(), "0.00"),
        ({"per_kwh": D("0.10"), "minimum": D("2")}, usage(1000), "2.00"),
        ({"per_kwh": D("9"), "maximum": D("20")}, usage(10000), "20.00"),
        ({"flat": D("10"), "tax_percent": D("19")}, usage(), "11.90"),
        ({"flat": D("0.10"), "tax_percent": D("25")}, usage(), "0.13"),
        ({"per_hour": D("6"), "step_seconds": 900}, usage(minutes=16), "3.00"),
    ],
)
def test_the_amount_is_rounded_once_half_up_to_the_currency(
    parts: dict[str, object], used: Usage, expected: str
) -> None:
    assert str(price(tariff(**parts), used)) == expected


def test_energy_that_nobody_measured_makes_the_price_unknown_not_zero() -> None:
    assert price(tariff(per_kwh=D("0.3"), flat=D(1)), usage(None)) is None
    assert price(tariff(flat=D(1)), usage(None)) == D("1.00")


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("99999999.99", "EUR", D("99999999.99")),
        ("99999999.994", "EUR", D("99999999.99")),
        ("99999999.995", "EUR", None),
        ("99999999.49", "JPY", D("99999999")),
        ("99999999.99", "JPY", None),
    ],
)
def test_a_cost_that_its_column_cannot_hold_is_not_known(amount: str, currency: str, expected: Decimal | None) -> None:
    assert rounded(D(amount), currency) == expected
    assert price(tariff(flat=D(amount), currency=currency), usage()) == expected


unit_prices = st.one_of(st.none(), st.decimals(min_value=0, max_value=MAX_UNIT_PRICE, places=6))
costs = st.one_of(st.none(), st.decimals(min_value=0, max_value=MAX_COST, places=2))


@given(
    parts=st.fixed_dictionaries(
        {"flat": unit_prices, "per_kwh": unit_prices, "per_hour": unit_prices, "per_idle_hour": unit_prices,
         "step_wh": st.one_of(st.none(), st.integers(1, 10**6)), "minimum": costs, "maximum": costs,
         "tax_percent": st.decimals(min_value=0, max_value=100, places=4),
         "currency": st.sampled_from(["EUR", "JPY"])}
    ),
    energy_wh=st.integers(0, int(MAX_ENERGY_KWH) * 1000),
    minutes=st.integers(0, 100 * 366 * 24 * 60),
)  # fmt: skip
def test_nothing_that_a_tariff_may_say_makes_a_cost_that_does_not_fit(
    parts: dict[str, object], energy_wh: int, minutes: int
) -> None:
    cost = price(tariff(**parts), usage(energy_wh, minutes=minutes, idle_minutes=minutes))
    assert cost is None or 0 <= cost <= MAX_COST


amounts = st.decimals(min_value=0, max_value=1000, places=4)


@given(amounts, amounts, st.integers(1, 5000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_energy_never_costs_less(per_kwh: Decimal, flat: Decimal, step: int, less: int, more: int) -> None:
    cheap, dear = sorted((less, more))
    rule = tariff(per_kwh=per_kwh, flat=flat, step_wh=step)
    low, high = price(rule, usage(cheap)), price(rule, usage(dear))
    assert low is not None
    assert high is not None
    assert low <= high


@given(amounts, amounts, amounts)
def test_a_frozen_tariff_prices_as_it_did(per_kwh: Decimal, minimum: Decimal, tax: Decimal) -> None:
    rule = tariff(per_kwh=per_kwh, minimum=minimum, tax_percent=tax, step_wh=10)
    assert tariff_of(tariff_json(rule)) == rule

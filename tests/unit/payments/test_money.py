"""Amounts of money: in our minor units, and in Stripe's, which are others for some currencies."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.payments.minimums import MAXIMUM_MINOR, MINIMUM_MINOR
from session_worker.payments.money import Money, money
from session_worker.payments.provider import Declined
from session_worker.payments.stripe_objects import money_of, stripe_amount
from shared.pricing import MAX_COST, TOO_FINE_CURRENCIES, currency_unit

# All that Stripe knows and that are not two places in ISO 4217 or at Stripe, and two that are.
CURRENCIES = "BIF CLP DJF EUR GNF HUF ISK JPY KMF KRW MGA PYG RWF UGX VND VUV XAF XOF XPF".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.34", "EUR", 1234),
        ("12.3", "EUR", 1230),
        ("0", "EUR", 0),
        ("500", "JPY", 500),
        ("500.00", "JPY", 500),
        ("7", "ISK", 7),
        ("175.50", "HUF", 17550),
        ("99999999.99", "USD", 9999999999),
    ],
)
def test_an_amount_is_so_many_of_its_currencys_smallest_unit(amount: str, currency: str, minor: int) -> None:
    assert money(Decimal(amount), currency) == Money(minor, currency)


@pytest.mark.parametrize(("amount", "currency"), [("0.5", "JPY"), ("12.345", "EUR"), ("1.01", "ISK")])
def test_a_fraction_that_the_currency_does_not_have_is_no_money(amount: str, currency: str) -> None:
    assert money(Decimal(amount), currency) is None


def test_an_amount_has_the_places_of_its_currency() -> None:
    assert [str(Money(1230, code).amount) for code in ("EUR", "JPY")] == ["12.30", "1230"]


@given(minor=st.integers(0, 10**12), currency=st.sampled_from(CURRENCIES))
def test_money_and_its_amount_are_the_same(minor: int, currency: str) -> None:
    held = Money(minor, currency)
    assert money(held.amount, currency) == held


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Money(1234, "EUR"), 1234),
        (Money(17550, "HUF"), 17550),  # two places but for payouts
        (Money(500, "JPY"), 500),
        (Money(5, "ISK"), 500),
        (Money(5, "UGX"), 500),
        (Money(500, "MGA"), 5),
        (Money(512, "KWD"), 5120),  # the last of three places is always zero
    ],
)
def test_stripe_is_told_amounts_in_its_own_units(ours: Money, theirs: int) -> None:
    assert stripe_amount(ours) == theirs
    assert money_of(theirs, ours.currency.lower()) == ours


@given(minor=st.integers(0, MAXIMUM_MINOR), currency=st.sampled_from(CURRENCIES))
def test_no_amount_changes_on_its_way_to_stripe_and_back(minor: int, currency: str) -> None:
    held = Money(minor * 100 if currency == "MGA" else minor, currency)
    assert money_of(stripe_amount(held), currency.lower()) == held


def test_what_stripe_has_no_unit_for_is_declined_and_what_we_have_none_for_cannot_be_read() -> None:
    """An amount is never rounded."""
    with pytest.raises(Declined):
        stripe_amount(Money(101, "MGA"))
    with pytest.raises(ValueError, match="fraction"):
        money_of(550, "isk")


def test_an_amount_that_no_column_holds_cannot_be_read() -> None:
    assert money_of(9_999_999_999, "eur").amount == MAX_COST
    with pytest.raises(ValueError, match="more than"):
        money_of(10_000_000_000, "eur")


def test_every_minimum_is_a_sum_that_can_be_owed() -> None:
    """Stripe names them in whole units: 0.50 EUR, 50 JPY, 15.00 CZK."""
    named = {"EUR": "0.50", "GBP": "0.30", "CZK": "15.00", "HUF": "175.00", "MXN": "10.00", "JPY": "50", "KRW": "50"}
    assert {code: str(MINIMUM_MINOR[code] * currency_unit(code)) for code in named} == named
    assert all(0 < minor <= MAXIMUM_MINOR for minor in MINIMUM_MINOR.values())
    assert not MINIMUM_MINOR.keys() & TOO_FINE_CURRENCIES

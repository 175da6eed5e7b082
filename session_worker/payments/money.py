"""Amounts of money as providers count them: whole minor units of a currency (ISO 4217). Pure."""

from dataclasses import dataclass
from decimal import Decimal

from shared.pricing import currency_unit


@dataclass(frozen=True, slots=True)
class Money:
    """So many of the currency's smallest unit: 1234 EUR cents, 500 yen."""

    minor: int
    currency: str

    @property
    def amount(self) -> Decimal:
        """The amount in whole units of the currency, with its places."""
        return self.minor * currency_unit(self.currency)


def money(amount: Decimal, currency: str) -> Money | None:
    """Return the money of an amount; None where the currency has no such fraction, such as half a yen."""
    minor = amount / currency_unit(currency)
    return Money(int(minor), currency) if minor == minor.to_integral_value() else None

"""The price of a session, pure: one function for the live, the final and the exported figure.

Decimal only. Steps round what is charged for upwards (OCPI 2.2.1, 11.4.8.2 `step_size`); the amount is rounded once, at
the end, half up, to the currency's exponent. `minimum` and `maximum` hold before tax.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any, Final

# ISO 4217's currencies without a minor unit; all others that fit the column `finalCost` have two places.
_NO_MINOR_UNIT: Final = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905 - a list to read
)
# ISO 4217's currencies with more places than `finalCost` has.
TOO_FINE_CURRENCIES: Final = frozenset("BHD CLF IQD JOD KWD LYD OMR TND UYW".split())  # noqa: SIM905
# What the columns of costs and amounts hold: numeric(10,2).
MAX_COST: Final = Decimal("99999999.99")

_WH_PER_KWH: Final = Decimal(1000)
_S_PER_HOUR: Final = Decimal(3600)
_PERCENT: Final = Decimal(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What a session is charged by; None is a part that the tariff does not have. Prices are before tax."""

    name: str
    currency: str
    flat: Decimal | None = None
    per_kwh: Decimal | None = None
    per_hour: Decimal | None = None
    per_idle_hour: Decimal | None = None
    step_wh: int | None = None
    step_seconds: int | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    tax_percent: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is charged for. `energy_wh` is None where nobody measured it."""

    energy_wh: Decimal | None
    charging_s: Decimal
    idle_s: Decimal = Decimal(0)


def price(tariff: Tariff, usage: Usage) -> Decimal | None:
    """Return the cost to the currency's exponent; None where it is not known, or too high to be written down.

    It is not known where the tariff needs an energy that nobody measured.
    """
    amount = exact_price(tariff, usage)
    return None if amount is None else rounded(amount, tariff.currency)


def rounded(amount: Decimal, currency: str) -> Decimal | None:
    """Return the amount half up to the currency's exponent, as every cost is, once; None above `MAX_COST`."""
    cost = amount.quantize(currency_unit(currency), rounding=ROUND_HALF_UP)
    return cost if cost <= MAX_COST else None


def exact_price(tariff: Tariff, usage: Usage) -> Decimal | None:
    """Return the cost before its one rounding."""
    if tariff.per_kwh is not None and usage.energy_wh is None:
        return None
    energy_wh = _step_up(usage.energy_wh or Decimal(0), tariff.step_wh)
    amount = (
        (tariff.flat or Decimal(0))
        + energy_wh / _WH_PER_KWH * (tariff.per_kwh or Decimal(0))
        + _step_up(usage.charging_s, tariff.step_seconds) / _S_PER_HOUR * (tariff.per_hour or Decimal(0))
        + _step_up(usage.idle_s, tariff.step_seconds) / _S_PER_HOUR * (tariff.per_idle_hour or Decimal(0))
    )
    if tariff.minimum is not None:
        amount = max(amount, tariff.minimum)
    if tariff.maximum is not None:
        amount = min(amount, tariff.maximum)
    return amount * (1 + (tariff.tax_percent or Decimal(0)) / _PERCENT)


def tariff_json(tariff: Tariff) -> dict[str, Any]:
    """Return the tariff as it is frozen into a session: decimals as strings."""
    return {column: _plain(getattr(tariff, name)) for name, column in _COLUMN_OF.items()}


def tariff_of(row: Mapping[Any, Any]) -> Tariff:
    """Return the tariff of a row, or of the JSON that was frozen."""
    values = {name: row[column] for name, column in _COLUMN_OF.items()}
    decimals = {name: None if values[name] is None else Decimal(values[name]) for name in _DECIMALS}
    return Tariff(**(values | decimals))


def _step_up(amount: Decimal, step: int | None) -> Decimal:
    if step is None:
        return amount
    return (amount / step).to_integral_value(rounding=ROUND_CEILING) * step


def currency_unit(currency: str) -> Decimal:
    """Return the currency's smallest amount: a cent, a yen."""
    return Decimal(1) if currency in _NO_MINOR_UNIT else Decimal("0.01")


def _plain(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value


_COLUMN_OF: Final = {
    "name": "name", "currency": "currency", "flat": "flat", "per_kwh": "perKwh", "per_hour": "perHour",
    "per_idle_hour": "perIdleHour", "step_wh": "stepWh", "step_seconds": "stepSeconds", "minimum": "minimum",
    "maximum": "maximum", "tax_percent": "taxPercent",
}  # fmt: skip
_DECIMALS: Final = ("flat", "per_kwh", "per_hour", "per_idle_hour", "minimum", "maximum", "tax_percent")

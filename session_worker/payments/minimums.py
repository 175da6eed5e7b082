"""The smallest and largest amounts that can be charged, as Stripe documents them; the sandbox keeps to the same. Pure.

https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts. Stripe's minimum also depends on the account's
settlement currency, so that it may refuse more than this; it says so in its answer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Minor units of ours (ISO 4217): 50 is 0.50 EUR, and 50 JPY. A currency that is not named has no minimum of its own.
MINIMUM_MINOR: Final[Mapping[str, int]] = MappingProxyType({
    "AED": 200, "ARS": 50, "AUD": 50, "BRL": 50, "CAD": 50, "CHF": 50, "COP": 50, "CZK": 1500, "DKK": 250, "EUR": 50,
    "GBP": 30, "HKD": 400, "HUF": 17500, "IDR": 50, "ILS": 50, "INR": 50, "JPY": 50, "KRW": 50, "MXN": 1000,
    "MYR": 200, "NOK": 300, "NZD": 50, "PHP": 50, "PLN": 200, "RON": 200, "RUB": 50, "SEK": 300, "SGD": 50,
    "THB": 1000, "USD": 50, "ZAR": 50,
})  # fmt: skip
# Eight digits: what every payment method takes in every currency.
MAXIMUM_MINOR: Final = 99_999_999

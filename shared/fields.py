"""The fields that REST bodies and queue messages share: what each accepts, and why it refuses the rest."""

import json
import re
import unicodedata
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BeforeValidator, Field

from shared.callback_url import parse_callback_url
from shared.pricing import MAX_COST, TOO_FINE_CURRENCIES

MAX_METADATA_BYTES = 16 * 1024
MAX_URL_CHARS = 2048
# Far above what a session can take; it only keeps nonsense out of the column.
MAX_ENERGY_KWH = Decimal(1000000)
# A register of nine digits in kWh.
MAX_METER_WH = Decimal(10**12)
MAX_UNIT_PRICE = Decimal(1000000)

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")
# An odd number of backslashes before u0000: an even one spells backslashes, which are harmless.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def _refuse_control_characters(value: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise ValueError("must not contain control characters")
    return value


def _check_identifier(value: str) -> str:
    _refuse_control_characters(value)
    if value != value.strip():
        raise ValueError("must not begin or end with white space")
    return value


def _fits_64_bits(value: Any) -> bool:
    """jsonb gives 1e20 back as an integer, which no 64-bit reader takes."""
    if isinstance(value, dict):
        return all(_fits_64_bits(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_fits_64_bits(inner) for inner in value)
    return not isinstance(value, int | float) or -(2**63) <= value < 2**63


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)  # orjson would make null of NaN and infinity
        text = orjson.dumps(value)  # the encoder that stores it and sends it on
    except (TypeError, ValueError) as error:
        raise ValueError("must hold only finite numbers, integers of 64 bits and valid Unicode") from error
    if not _fits_64_bits(value):
        raise ValueError("must hold only numbers of a magnitude below 2^63")
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"must not be larger than {MAX_METADATA_BYTES} bytes of JSON")
    if _ESCAPED_NUL.search(text):
        raise ValueError("must not contain the character U+0000, which the database cannot store")
    return value


def _check_callback_url(value: str) -> str:
    parse_callback_url(value)
    return value


def _take_number(value: object) -> object:
    """JSON true is no number, though Python's bool is an int; and Python reads more strings as numbers than people."""
    if isinstance(value, bool) or (isinstance(value, str) and not _DECIMAL.fullmatch(value)):
        raise ValueError("must be a number or a decimal string")
    return value


def _check_currency(value: str) -> str:
    if value in TOO_FINE_CURRENCIES:
        raise ValueError("has more than the two places that a cost can have")
    return value


def _at_most(places: int) -> AfterValidator:
    """Round half up to so many places (a float sum has seventeen) and write it plainly: equal values look equal.

    Zero may come with any exponent: 0E+99999999 would be a hundred million characters.
    """
    unit = Decimal(1).scaleb(-places)

    def plain(value: Decimal) -> Decimal:
        rounded = value.quantize(unit, rounding=ROUND_HALF_UP) if value else Decimal(0)
        return Decimal(format(rounded.normalize(), "f"))

    return AfterValidator(plain)


Identifier = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_check_identifier)]
ConnectorId = Annotated[str, Field(min_length=1, max_length=36), AfterValidator(_check_identifier)]
Reason = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_refuse_control_characters)]
CallbackUrl = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS), AfterValidator(_check_callback_url)]
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
Cost = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_COST, decimal_places=2),
    BeforeValidator(_take_number),
    _at_most(2),
]
Amount = Annotated[
    Decimal,
    Field(strict=False, gt=0, le=MAX_COST, decimal_places=2),
    BeforeValidator(_take_number),
    _at_most(2),
]
MeterWh = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_METER_WH),
    BeforeValidator(_take_number),
    _at_most(3),
]
UnitPrice = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_UNIT_PRICE),
    BeforeValidator(_take_number),
    _at_most(6),
]
TaxPercent = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=100),
    BeforeValidator(_take_number),
    _at_most(4),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(_check_currency)]
EnergyKwh = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_ENERGY_KWH),
    BeforeValidator(_take_number),
    _at_most(6),
]

"""The fields that REST bodies and queue messages share: what each accepts, and why it refuses the rest."""

import json
import re
import unicodedata
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from yarl import URL

from shared.pricing import TOO_FINE_CURRENCIES

MAX_METADATA_BYTES = 16 * 1024
MAX_URL_CHARS = 2048
# numeric(10,2) of the seed's column; a dearer session is a fault of the caller.
MAX_COST = Decimal("99999999.99")
# Far above what a session can take; it only keeps nonsense out of the column.
MAX_ENERGY_KWH = Decimal(1000000)
# A register of nine digits in kWh.
MAX_METER_WH = Decimal(10**12)
MAX_UNIT_PRICE = Decimal(1000000)

_CALLBACK_SCHEMES = ("http", "https")
# yarl takes an empty user name for none.
_USERINFO = re.compile(r"[^/?#]*//[^/?#]*@")
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


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise ValueError("must hold only finite numbers and valid Unicode") from error
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"must not be larger than {MAX_METADATA_BYTES} bytes of JSON")
    if _ESCAPED_NUL.search(text):
        raise ValueError("must not contain the character U+0000, which the database cannot store")
    return value


def _check_callback_url(value: str) -> str:
    if any(char.isspace() or unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise ValueError("must not contain white space or control characters")
    if "\\" in value:
        raise ValueError("must not contain a backslash")
    try:
        url = URL(value)
        has_port = url.port is not None
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    if url.scheme not in _CALLBACK_SCHEMES or not url.host or not has_port:
        raise ValueError("must be an absolute http or https URL")
    if url.user is not None or url.password is not None or _USERINFO.match(value):
        raise ValueError("must not carry a user name or password")
    if "#" in value:
        raise ValueError("must not have a fragment")
    return value


def _refuse_bool(value: object) -> object:
    """JSON true is no number, though Python's bool is an int."""
    if isinstance(value, bool):
        raise ValueError("must be a number or a decimal string")
    return value


def _check_currency(value: str) -> str:
    if value in TOO_FINE_CURRENCIES:
        raise ValueError("has more than the two places that a cost can have")
    return value


def _plain_zero(value: Decimal) -> Decimal:
    """Zero may come with any exponent: 0E+99999999 is a hundred million characters once written out."""
    return value or Decimal(0)


Identifier = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_check_identifier)]
ConnectorId = Annotated[str, Field(min_length=1, max_length=36), AfterValidator(_check_identifier)]
Reason = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_refuse_control_characters)]
CallbackUrl = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS), AfterValidator(_check_callback_url)]
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
Cost = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_COST, decimal_places=2),
    BeforeValidator(_refuse_bool),
    AfterValidator(_plain_zero),
]
MeterWh = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_METER_WH, decimal_places=3),
    BeforeValidator(_refuse_bool),
    AfterValidator(_plain_zero),
]
UnitPrice = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_UNIT_PRICE, decimal_places=6),
    BeforeValidator(_refuse_bool),
    AfterValidator(_plain_zero),
]
TaxPercent = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=100, decimal_places=4),
    BeforeValidator(_refuse_bool),
    AfterValidator(_plain_zero),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(_check_currency)]
EnergyKwh = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=MAX_ENERGY_KWH, decimal_places=6),
    BeforeValidator(_refuse_bool),
    AfterValidator(_plain_zero),
]

"""What the fields of a body accept and refuse."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.fields import CallbackUrl, Cost, EnergyKwh, Identifier, Metadata

ACCEPTED: list[tuple[Any, object]] = [
    (Identifier, "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL"),
    (Identifier, "x" * 255),
    (Identifier, "Ladesäule 7 ⚡"),
    (CallbackUrl, "https://webhook.site/{id}"),
    (CallbackUrl, "http://127.0.0.1:8080/hook?token=1&x=%20"),
    (CallbackUrl, "https://[2001:db8::1]/x"),
    (CallbackUrl, "https://bücher.example/x"),
    (Metadata, {"location": "Station A, Bay 3", "nested": {"a": [1, None, True]}}),
    (Metadata, {"harmless": "\\u0000 spelled with a backslash"}),
    (Cost, "12.34"),
    (Cost, 0),
    (Cost, 12.3),
    (EnergyKwh, "0.000001"),
]
REFUSED: list[tuple[Any, object]] = [
    (Identifier, ""),
    (Identifier, "x" * 256),
    (Identifier, " x"),
    (Identifier, "x\n"),
    (Identifier, "a\x00b"),
    (Identifier, "a\x85b"),
    (Identifier, "\ud800"),
    (CallbackUrl, "webhook.site/x"),
    (CallbackUrl, "/relative"),
    (CallbackUrl, "ftp://host/x"),
    (CallbackUrl, "https:///x"),
    (CallbackUrl, "https://"),
    (CallbackUrl, "https://user@host/"),
    (CallbackUrl, "https://user:pw@host/"),
    (CallbackUrl, "https://@host/"),
    (CallbackUrl, "https://host/#part"),
    (CallbackUrl, "https://host/#"),
    (CallbackUrl, "https://ho st/"),
    (CallbackUrl, "https://host/\r\nx"),
    (CallbackUrl, "https://host:99999/"),
    (CallbackUrl, "https://host:0/"),
    (CallbackUrl, "http://127.1/"),
    (CallbackUrl, "https://host\\@evil/"),
    (CallbackUrl, "https://host/" + "x" * 2048),
    (Metadata, {"big": "x" * 16384}),
    (Metadata, {"nan": float("nan")}),
    (Metadata, {"inf": float("inf")}),
    (Metadata, {"nul": "a\x00b"}),
    (Metadata, {"surrogate": "\ud800"}),
    (Cost, "1.234"),
    (Cost, -1),
    (Cost, "-0.01"),
    (Cost, "NaN"),
    (Cost, "Infinity"),
    (Cost, True),
    (Cost, "100000000"),
    (EnergyKwh, "twelve"),
]


@pytest.mark.parametrize(("field", "value"), ACCEPTED, ids=lambda value: repr(value)[:60])
def test_a_good_value_is_taken(field: Any, value: object) -> None:
    TypeAdapter(field).validate_python(value)


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=lambda value: repr(value)[:60])
def test_a_bad_value_is_refused(field: Any, value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(field).validate_python(value)

"""The cursor of the session list."""

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reads import Cursor

times = st.datetimes(timezones=st.just(UTC))


@given(created_at=times, row_id=st.uuids())
def test_a_cursor_survives_the_trip_through_a_url(created_at: datetime, row_id: UUID) -> None:
    """To the microsecond, as Postgres keeps times; without a character that a query would have to escape."""
    cursor = Cursor(created_at, row_id)
    encoded = cursor.encode()
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", encoded)
    assert Cursor.decode(encoded) == cursor


@given(text=st.text(max_size=40))
def test_any_text_is_a_cursor_or_a_value_error(text: str) -> None:
    """Nothing else comes out of the decoder, so nothing a client sends is a 500."""
    try:
        cursor = Cursor.decode(text)
    except ValueError:
        return
    assert cursor.encode() == text


@pytest.mark.parametrize("text", ["f" * 32, "A" * 31, "A" * 36, " " + "A" * 31, "A" * 31 + "="])
def test_a_made_up_cursor_is_refused(text: str) -> None:
    """Times beyond the calendar, wrong lengths, padding."""
    with pytest.raises(ValueError, match="cursor"):
        Cursor.decode(text)

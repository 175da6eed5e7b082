"""The cells of an exported session, and the SELECT behind them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import typer

from ops.records import parse_time
from ops.sessions_export import COLUMNS, Wanted, flat, statement
from shared.resources import SESSION_COLUMNS, Status, session_json
from tests.builders import NOW

ID = UUID(int=7)


def row(**changes: Any) -> dict[str, Any]:
    """A completed session as the database gives it; its JSON column is text."""
    defaults: dict[str, Any] = dict.fromkeys(SESSION_COLUMNS) | {
        "id": ID, "chargerId": "C-1", "status": "COMPLETED", "phase": "COMPLETED", "finalCost": Decimal("12.30"),
        "energyKwh": Decimal("1E+2"), "metadata": '{"bay": 3}', "createdAt": NOW, "updatedAt": NOW,
        "needsReview": False, "reviewReason": None,
    }  # fmt: skip
    return defaults | changes


def cells(**changes: Any) -> dict[str, str]:
    return dict(zip(COLUMNS, flat(row(**changes)), strict=True))


def test_the_columns_are_the_session_jsons_but_for_the_payment() -> None:
    assert set(COLUMNS) - {"needsReview", "reviewReason"} == session_json(row()).keys() - {"payment"}


def test_money_and_energy_are_plain_decimals_and_what_is_not_known_is_empty() -> None:
    found = cells()
    assert (found["finalCost"], found["energyKwh"], found["endedAt"]) == ("12.30", "100", "")
    assert (found["sessionId"], found["createdAt"]) == (str(ID), "2026-05-04T12:00:00.000Z")
    assert (found["needsReview"], found["metadata"]) == ("false", '{"bay": 3}')


def test_a_session_for_review_says_so() -> None:
    found = cells(needsReview=True, reviewReason="STALE")
    assert (found["needsReview"], found["reviewReason"]) == ("true", "STALE")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("column", ["chargerId", "connectorId", "stationId", "driverId", "reason"])
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(column: str, start: str) -> None:
    assert cells(**{column: f"{start}HYPERLINK(1)"})[column] == f"'{start}HYPERLINK(1)"


def test_a_harmless_text_stays_as_it_is() -> None:
    assert cells(reason="a=b")["reason"] == "a=b"


def test_filters_are_parameters() -> None:
    query, values = statement(Wanted(begin=NOW, end=NOW, status=Status.COMPLETED, charger_id="'; DROP"))
    assert 'WHERE "createdAt" >= $1 AND "createdAt" < $2 AND status = $3 AND "chargerId" = $4 ORDER BY' in query
    assert values == [NOW, NOW, Status.COMPLETED, "'; DROP"]
    assert statement(Wanted())[1] == []


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-05-04", datetime(2026, 5, 4, tzinfo=UTC)),
        ("2026-05-04T12:00:00Z", NOW),
        ("2026-05-04T14:00:00+02:00", NOW),
    ],
)
def test_a_time_may_be_a_date(text: str, time: datetime) -> None:
    assert parse_time(text) == time


@pytest.mark.parametrize("text", ["yesterday", "2026-05-04T12:00:00", "2026-13-01", ""])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_time(text)

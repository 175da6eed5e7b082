"""What a session costs while it runs, and its OCPI 2.2.1 record: figures that agree with `finalCost`."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.ocpi import Party, export
from gateway.ocpi_example import EXAMPLE_ROW
from gateway.resources import SESSION
from shared.pricing import Tariff, tariff_json

PARTY = Party("DE", "VLT")
BEGAN_AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
NOW = BEGAN_AT + timedelta(hours=2)
RUNNING: dict[str, Any] = EXAMPLE_ROW | {
    "status": "IN_PROGRESS", "phase": "ACTIVE", "finalCost": None, "endedAt": None, "meter": None, "reason": None,
    "energyKwh": None, "stationId": None, "metadata": None, "payment": None,
}  # fmt: skip
# OCPI 2.2.1, mod_cdrs: the fields of cardinality 1 and +, but for those of the location that nobody here knows.
CDR_REQUIRED = {
    "country_code", "party_id", "id", "start_date_time", "end_date_time", "cdr_token", "auth_method", "cdr_location",
    "currency", "charging_periods", "total_cost", "total_energy", "total_time", "last_updated",
}  # fmt: skip
SESSION_REQUIRED = {
    "country_code", "party_id", "id", "start_date_time", "kwh", "cdr_token", "auth_method", "location_id", "evse_uid",
    "connector_id", "currency", "status", "last_updated",
}  # fmt: skip


def frozen(**parts: Any) -> dict[str, Any]:
    return tariff_json(Tariff(**({"name": "T", "currency": "EUR"} | parts)))


def test_a_running_session_shows_what_it_would_cost_now() -> None:
    """By its own tariff, for its time so far; the currency is the tariff's."""
    row = RUNNING | {"tariff": frozen(per_hour=Decimal(3)), "currency": None}
    shown = SESSION.to_json(row, NOW)
    assert (shown["finalCost"], shown["currency"]) == ("6.00", "EUR")
    later = SESSION.to_json(row, NOW + timedelta(minutes=10))
    assert later["finalCost"] == "6.50"


def test_a_cost_that_needs_an_unmeasured_energy_is_not_known() -> None:
    """Null, never 0; measured, it is priced."""
    row = RUNNING | {"tariff": frozen(per_kwh=Decimal("0.5"))}
    assert SESSION.to_json(row, NOW)["finalCost"] is None
    assert SESSION.to_json(row | {"energyKwh": Decimal("3.3")}, NOW)["finalCost"] == "1.65"


def test_a_running_session_shows_its_cost_as_the_final_one_will_be_shown() -> None:
    """Two places whatever the currency; one that no final cost can be is not known."""
    yen = frozen(flat=Decimal(12)) | {"currency": "JPY"}
    assert SESSION.to_json(RUNNING | {"tariff": yen}, NOW)["finalCost"] == "12.00"
    dear = RUNNING | {"tariff": frozen(per_kwh=Decimal(10**6)), "energyKwh": Decimal(100)}
    assert SESSION.to_json(dear, NOW)["finalCost"] is None
    assert "total_cost" not in export(dear, PARTY, NOW)["session"]


def test_without_a_tariff_nothing_is_known() -> None:
    shown = SESSION.to_json(RUNNING | {"tariff": None, "currency": None}, NOW)
    assert (shown["finalCost"], shown["currency"]) == (None, None)


@pytest.mark.parametrize("status", ["COMPLETED", "CANCELLED"])
def test_an_ended_session_shows_what_was_stored(status: str) -> None:
    """Whatever the tariff would say today."""
    row = RUNNING | {"status": status, "phase": status, "endedAt": NOW, "tariff": frozen(per_hour=Decimal(3))}
    assert SESSION.to_json(row | {"finalCost": Decimal("1.23")}, NOW)["finalCost"] == "1.23"
    assert SESSION.to_json(row, NOW)["finalCost"] is None


def test_a_record_has_every_field_that_ocpi_requires() -> None:
    exported = export(EXAMPLE_ROW, PARTY, NOW)
    cdr, session = exported["cdr"], exported["session"]
    assert set(cdr) >= CDR_REQUIRED
    assert set(session) >= SESSION_REQUIRED
    assert set(cdr["cdr_token"]) == {"country_code", "party_id", "uid", "type", "contract_id"}
    assert cdr["cdr_location"] == {
        "id": "CHARGER-001", "evse_uid": "CHARGER-001", "evse_id": "CHARGER-001", "connector_id": "1",
    }  # fmt: skip
    assert (cdr["country_code"], cdr["party_id"]) == ("DE", "VLT")
    assert (session["status"], cdr["auth_method"]) == ("COMPLETED", "COMMAND")


def test_the_figures_of_a_record_are_the_sessions() -> None:
    """JSON numbers, four decimals; hours, kWh; the total with tax is `finalCost`."""
    cdr = export(EXAMPLE_ROW, PARTY, NOW)["cdr"]
    assert cdr["total_cost"] == {"excl_vat": 14.03, "incl_vat": float(EXAMPLE_ROW["finalCost"])}
    assert (cdr["total_energy"], cdr["total_time"], cdr["total_parking_time"]) == (23.4, 1.5, 0.5)
    (period,) = cdr["charging_periods"]
    volumes = {dimension["type"]: dimension["volume"] for dimension in period["dimensions"]}
    assert volumes == {"ENERGY": 23.4, "TIME": 1.0, "PARKING_TIME": 0.5}
    (tariff,) = cdr["tariffs"]
    (element,) = tariff["elements"]
    assert period["tariff_id"] == tariff["id"]
    assert [(part["type"], part["price"], part["vat"]) for part in element["price_components"]] == [
        ("FLAT", 0.5, 19.0), ("ENERGY", 0.45, 19.0), ("PARKING_TIME", 6.0, 19.0),
    ]  # fmt: skip


def test_a_cost_that_somebody_named_is_split_by_the_tariffs_tax() -> None:
    cdr = export(EXAMPLE_ROW | {"finalCost": Decimal("11.90")}, PARTY, NOW)["cdr"]
    assert cdr["total_cost"] == {"excl_vat": 10.0, "incl_vat": 11.9}


def test_the_tax_on_a_named_cost_leaves_whole_yen() -> None:
    row = EXAMPLE_ROW | {"tariff": frozen(currency="JPY", tax_percent=Decimal(19)), "currency": "JPY"}
    cdr = export(row | {"finalCost": Decimal("12.00")}, PARTY, NOW)["cdr"]
    assert cdr["total_cost"] == {"excl_vat": 10.0, "incl_vat": 12.0}


def test_a_record_without_tariff_and_driver_is_a_record_all_the_same() -> None:
    """A named cost without a currency is XXX; the session is its own one-time token."""
    row = EXAMPLE_ROW | {
        "tariff": None, "meter": None, "currency": None, "driverId": None, "energyKwh": None, "connectorId": None,
        "stationId": "S", "requestId": uuid4(), "reviewReason": "STALE", "reason": None,
    }  # fmt: skip
    cdr = export(row, PARTY, NOW)["cdr"]
    assert (cdr["currency"], cdr["tariffs"], cdr["total_energy"]) == ("XXX", [], 0.0)
    assert cdr["cdr_token"]["type"] == "AD_HOC_USER"
    assert cdr["cdr_token"]["uid"] == str(row["id"])
    assert (cdr["cdr_location"]["id"], cdr["cdr_location"]["connector_id"]) == ("S", "#NA")
    assert cdr["auth_method"] == "AUTH_REQUEST"
    assert cdr["remark"] == "Needs review: STALE; Energy was not measured"
    assert cdr["total_cost"]["excl_vat"] == cdr["total_cost"]["incl_vat"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ACTIVE"),
        ({"phase": "STARTING"}, "PENDING"),
        ({"status": "CANCELLED", "phase": "CANCELLED", "endedAt": NOW, "startedAt": None}, "INVALID"),
        ({"status": "COMPLETED", "phase": "COMPLETED", "endedAt": NOW}, "COMPLETED"),
    ],
)
def test_there_is_no_record_before_there_is_a_completed_session_with_a_cost(
    changes: dict[str, Any], status: str
) -> None:
    """A CDR without its total is none; the session says where it stands."""
    exported = export(RUNNING | changes, PARTY, NOW)
    assert exported["cdr"] is None
    assert exported["session"]["status"] == status


def test_a_running_session_is_exported_with_its_cost_so_far() -> None:
    row = RUNNING | {"tariff": frozen(per_hour=Decimal(3), tax_percent=Decimal(20))}
    session = export(row, PARTY, NOW)["session"]
    assert session["total_cost"] == {"excl_vat": 6.0, "incl_vat": 7.2}
    assert "end_date_time" not in session

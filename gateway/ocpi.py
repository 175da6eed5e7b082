"""A session as OCPI 2.2.1 has it: its Session object, and its charge detail record (CDR) once it has a price.

Field names and numbers are OCPI's. What is not known here is left out (address, coordinates, type of the connector);
identifiers are given whole, where OCPI's own end after 36 characters.
"""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from gateway.costs import cost_and_currency, cost_before_tax, tariff_of_session, usage_of
from gateway.resources import Row
from shared.pricing import Tariff, Usage
from shared.resources import Phase, Status, rfc3339

# ISO 4217's code for a transaction without a currency; OCPI requires one.
NO_CURRENCY = "XXX"
# OCPI's word where there is no such identifier.
NOT_AVAILABLE = "#NA"
MAX_REMARK_CHARS = 255

# OCPI 2.2.1, 17.4: numbers have four decimals.
_FOUR_PLACES = Decimal("0.0001")
_WH_PER_KWH = Decimal(1000)
_S_PER_HOUR = Decimal(3600)
_STATUS = {
    Phase.STARTING: "PENDING",
    Phase.ACTIVE: "ACTIVE",
    Phase.STOPPING: "ACTIVE",
    Phase.COMPLETED: "COMPLETED",
    Phase.CANCELLED: "INVALID",
}


class Party(NamedTuple):
    """The operator that owns the records."""

    country_code: str
    party_id: str


def export(row: Row, party: Party, now: datetime) -> dict[str, Any]:
    """Return the Session, and the CDR of a completed session whose cost is known; its total is `finalCost`."""
    session = _session(row, party, now)
    is_billed = row["status"] == Status.COMPLETED and row["finalCost"] is not None
    return {"session": session, "cdr": _cdr(row, party, now) if is_billed else None}


def _session(row: Row, party: Party, now: datetime) -> dict[str, Any]:
    location = _location(row)
    cost, _ = cost_and_currency(row, now)
    known = {
        "end_date_time": None if row["endedAt"] is None else rfc3339(row["endedAt"]),
        "total_cost": None if cost is None else _price(row, cost, now),
    }
    return {
        **_of_both(row, party, now),
        **{name: value for name, value in known.items() if value is not None},
        "kwh": _number(row["energyKwh"] or Decimal(0)),
        "location_id": location["id"],
        "evse_uid": location["evse_uid"],
        "connector_id": location["connector_id"],
        "status": _STATUS[Phase(row["phase"])],
    }


def _cdr(row: Row, party: Party, now: datetime) -> dict[str, Any]:
    used = usage_of(row, now)
    tariff = tariff_of_session(row)
    remark = _remark(row)
    return {
        **_of_both(row, party, now),
        "end_date_time": rfc3339(row["endedAt"]),
        "session_id": str(row["id"]),
        "cdr_location": _location(row),
        "tariffs": [] if tariff is None else [_tariff(tariff, party, _began_at(row))],
        "total_cost": _price(row, row["finalCost"], now),
        "total_energy": _number(row["energyKwh"] or Decimal(0)),
        "total_time": _hours(used.charging_s + used.idle_s),
        "total_parking_time": _hours(used.idle_s),
        **({"remark": remark} if remark else {}),
    }


def _of_both(row: Row, party: Party, now: datetime) -> dict[str, Any]:
    return {
        **party._asdict(),
        "id": str(row["id"]),
        "start_date_time": rfc3339(_began_at(row)),
        "cdr_token": _token(row, party),
        "auth_method": "COMMAND" if row["requestId"] is None else "AUTH_REQUEST",
        "currency": cost_and_currency(row, now)[1] or NO_CURRENCY,
        "charging_periods": [_period(row, usage_of(row, now))],
        "last_updated": rfc3339(row["updatedAt"]),
    }


def _began_at(row: Row) -> datetime:
    """A session that never got its charger has not started; its record begins where it was made."""
    began: datetime = row["startedAt"] or row["createdAt"]
    return began


def _token(row: Row, party: Party) -> dict[str, str]:
    """Without a driver, the session is its own one-time token."""
    driver = row["driverId"]
    uid = driver or str(row["id"])
    return {**party._asdict(), "uid": uid, "type": "OTHER" if driver else "AD_HOC_USER", "contract_id": uid}


def _location(row: Row) -> dict[str, str]:
    charger = row["chargerId"]
    return {
        "id": row["stationId"] or charger,
        "evse_uid": charger,
        "evse_id": charger,
        "connector_id": row["connectorId"] or NOT_AVAILABLE,
    }


def _period(row: Row, used: Usage) -> dict[str, Any]:
    """The whole session is one period: the tariff that was frozen at its start serves to its end."""
    volumes = {"TIME": _hours(used.charging_s), "PARKING_TIME": _hours(used.idle_s)}
    if used.energy_wh is not None:
        volumes = {"ENERGY": _number(used.energy_wh / _WH_PER_KWH)} | volumes
    tariff = {} if row["tariff"] is None else {"tariff_id": row["tariff"]["name"]}
    return {
        "start_date_time": rfc3339(_began_at(row)),
        "dimensions": [{"type": name, "volume": volume} for name, volume in volumes.items()],
        **tariff,
    }


def _tariff(tariff: Tariff, party: Party, frozen_at: datetime) -> dict[str, Any]:
    limits = {"min_price": tariff.minimum, "max_price": tariff.maximum}
    return {
        **party._asdict(),
        "id": tariff.name,
        "currency": tariff.currency,
        **{name: {"excl_vat": float(limit)} for name, limit in limits.items() if limit is not None},
        "elements": [{"price_components": _components(tariff)}],
        "last_updated": rfc3339(frozen_at),
    }


def _components(tariff: Tariff) -> list[dict[str, Any]]:
    """A tariff without any price is free of charge, which OCPI says with a flat 0."""
    prices = [
        ("FLAT", tariff.flat, None),
        ("ENERGY", tariff.per_kwh, tariff.step_wh),
        ("TIME", tariff.per_hour, tariff.step_seconds),
        ("PARKING_TIME", tariff.per_idle_hour, tariff.step_seconds),
    ]
    vat = {} if tariff.tax_percent is None else {"vat": float(tariff.tax_percent)}
    kept = [(name, price, step) for name, price, step in prices if price is not None] or [("FLAT", Decimal(0), None)]
    return [{"type": name, "price": float(price), **vat, "step_size": step or 1} for name, price, step in kept]


def _price(row: Row, cost: Decimal, now: datetime) -> dict[str, float]:
    return {"excl_vat": float(cost_before_tax(row, cost, now)), "incl_vat": float(cost)}


def _remark(row: Row) -> str:
    review = f"Needs review: {row['reviewReason']}" if row["reviewReason"] else ""
    unmeasured = "Energy was not measured" if row["energyKwh"] is None else ""
    return "; ".join(filter(None, (review, row["reason"], unmeasured)))[:MAX_REMARK_CHARS]


def _hours(seconds: Decimal) -> float:
    return _number(seconds / _S_PER_HOUR)


def _number(value: Decimal) -> float:
    """Four decimals are exact in a double, printed shortest."""
    return float(value.quantize(_FOUR_PLACES, rounding=ROUND_HALF_UP))

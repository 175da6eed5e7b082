"""What a session costs, from its row: one function for the session that is read and for the record that is exported."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from shared.meter import meter_of, usage
from shared.pricing import Tariff, Usage, price, rounded, tariff_of
from shared.resources import Status

_PERCENT = Decimal(100)


def usage_of(row: Mapping[str, Any], now: datetime) -> Usage:
    """Return what the session used, until it ended or until now."""
    began = row["startedAt"] or row["createdAt"]
    return usage(meter_of(row["meter"]), row["energyKwh"], began, row["endedAt"] or now)


def tariff_of_session(row: Mapping[str, Any]) -> Tariff | None:
    """Return the tariff that was frozen into the session when it started."""
    return None if row["tariff"] is None else tariff_of(row["tariff"])


def cost_and_currency(row: Mapping[str, Any], now: datetime) -> tuple[Decimal | None, str | None]:
    """Return what an ended session costs; of one in progress what it would, if it ended now. None is not known."""
    tariff = tariff_of_session(row)
    if row["status"] != Status.IN_PROGRESS or tariff is None:
        return row["finalCost"], row["currency"]
    return price(tariff, usage_of(row, now)), row["currency"] or tariff.currency


def cost_before_tax(row: Mapping[str, Any], cost: Decimal, now: datetime) -> Decimal:
    """Return the part of the cost that is no tax: priced without it, or taken out of a cost that somebody named."""
    tariff = tariff_of_session(row)
    if tariff is None or not tariff.tax_percent:
        return cost
    used = usage_of(row, now)
    net = price(replace(tariff, tax_percent=None), used)
    if net is None or price(tariff, used) != cost:
        net = rounded(cost / (1 + tariff.tax_percent / _PERCENT), tariff.currency)
    return cost if net is None else net

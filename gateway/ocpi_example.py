"""The exported session that the documentation shows, made by the export itself."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from gateway.ocpi import Party, export
from gateway.resources import Row
from shared.meter import Meter, meter_json
from shared.pricing import Tariff, tariff_json

_BEGAN_AT: Final = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
_ENDED_AT: Final = _BEGAN_AT + timedelta(hours=1, minutes=30)
_TARIFF: Final = Tariff(
    name="default",
    currency="EUR",
    flat=Decimal("0.50"),
    per_kwh=Decimal("0.45"),
    per_idle_hour=Decimal("6.00"),
    tax_percent=Decimal(19),
)
_METER: Final = Meter(
    lowest_wh=Decimal(1000000),
    highest_wh=Decimal(1023400),
    last_at=_ENDED_AT,
    is_rising=False,
    energy_wh=Decimal(23400),
    idle_s=Decimal(1800),
)
EXAMPLE_ROW: Final[Row] = {
    "id": UUID("123e4567-e89b-12d3-a456-426614174000"),
    "chargerId": "CHARGER-001",
    "connectorId": "1",
    "stationId": None,
    "driverId": "DRIVER-1",
    "requestId": None,
    "status": "COMPLETED",
    "phase": "COMPLETED",
    "reason": "DRIVER",
    "finalCost": Decimal("16.70"),
    "currency": "EUR",
    "energyKwh": Decimal("23.4"),
    "startedAt": _BEGAN_AT,
    "endedAt": _ENDED_AT,
    "createdAt": _BEGAN_AT,
    "updatedAt": _ENDED_AT,
    "tariff": tariff_json(_TARIFF),
    "meter": meter_json(_METER),
    "reviewReason": None,
}


def example_export() -> dict[str, Any]:
    """Return the export of the example."""
    return export(EXAMPLE_ROW, Party("XX", "VLT"), _ENDED_AT)

"""Meter values, pure: absolute registers become energy and idle time, whatever order or number they come in.

A register that is lower than an earlier one was reset and begins a new segment, if both say when they were measured;
without a time nobody can tell a reset from a message that was overtaken, and the energy is the highest less the lowest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from shared.pricing import Usage

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """A register at a time; `is_timed` where the meter itself said when."""

    at: datetime
    wh: Decimal
    is_timed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What the samples so far add up to. `lowest_wh` and `highest_wh` are of the segment that is under way."""

    lowest_wh: Decimal
    highest_wh: Decimal
    last_at: datetime
    is_rising: bool = True
    energy_wh: Decimal = _ZERO
    idle_s: Decimal = _ZERO


def fold(samples: Iterable[Sample]) -> Meter | None:
    """Return what all samples add up to, in the order of their times."""
    meter = None
    for sample in sorted(set(samples)):
        meter = advance(meter, sample)
    return meter


def comes_after(meter: Meter | None, sample: Sample) -> bool:
    """Whether `advance` may take the sample as it is; otherwise all must be folded again."""
    return meter is None or sample.at > meter.last_at


def advance(meter: Meter | None, sample: Sample) -> Meter:
    """Take one sample that is no earlier than those before."""
    if meter is None:
        return Meter(lowest_wh=sample.wh, highest_wh=sample.wh, last_at=sample.at)
    if sample.wh >= meter.highest_wh:
        return _risen(meter, sample)
    if sample.is_timed:
        return replace(meter, lowest_wh=sample.wh, highest_wh=sample.wh, last_at=sample.at, is_rising=True)
    lowest = min(meter.lowest_wh, sample.wh)
    return replace(meter, lowest_wh=lowest, energy_wh=meter.energy_wh + meter.lowest_wh - lowest, last_at=sample.at)


def _risen(meter: Meter, sample: Sample) -> Meter:
    rise = sample.wh - meter.highest_wh
    flat_s = _seconds(meter.last_at, sample.at) if rise == 0 else _ZERO
    return replace(
        meter,
        highest_wh=sample.wh,
        last_at=sample.at,
        is_rising=rise > 0 or (flat_s == 0 and meter.is_rising),
        energy_wh=meter.energy_wh + rise,
        idle_s=meter.idle_s + flat_s,
    )


def usage(meter: Meter | None, energy_kwh: Decimal | None, started_at: datetime, ended_at: datetime) -> Usage:
    """Return what is charged for. After the last sample a session goes on as it was: charging, or idle."""
    total_s = max(_ZERO, _seconds(started_at, ended_at))
    idle_s = _ZERO
    if meter is not None:
        tail_s = _ZERO if meter.is_rising else max(_ZERO, _seconds(meter.last_at, ended_at))
        idle_s = min(total_s, meter.idle_s + tail_s)
    energy_wh = None if energy_kwh is None else energy_kwh * 1000
    return Usage(energy_wh=energy_wh, charging_s=total_s - idle_s, idle_s=idle_s)


def energy_kwh(meter: Meter | None) -> Decimal | None:
    """Return the measured energy; None where nothing was measured."""
    return None if meter is None else (meter.energy_wh / 1000).normalize() + 0


def meter_json(meter: Meter | None) -> dict[str, Any] | None:
    """Return the meter as it is kept in the session's row."""
    if meter is None:
        return None
    return {
        "lowestWh": str(meter.lowest_wh),
        "highestWh": str(meter.highest_wh),
        "lastAt": meter.last_at.isoformat(),
        "isRising": meter.is_rising,
        "energyWh": str(meter.energy_wh),
        "idleS": str(meter.idle_s),
    }


def meter_of(kept: Mapping[str, Any] | None) -> Meter | None:
    """Return the meter of what `meter_json` kept."""
    if kept is None:
        return None
    return Meter(
        lowest_wh=Decimal(kept["lowestWh"]),
        highest_wh=Decimal(kept["highestWh"]),
        last_at=datetime.fromisoformat(kept["lastAt"]),
        is_rising=kept["isRising"],
        energy_wh=Decimal(kept["energyWh"]),
        idle_s=Decimal(kept["idleS"]),
    )


def _seconds(begin: datetime, end: datetime) -> Decimal:
    return Decimal(str((end - begin).total_seconds()))

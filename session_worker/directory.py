"""Drivers, stations and tariffs: what operators set, and what a batch knows of it.

A batch reads only what its requests and starts ask for; what it sets itself, its later commands see.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_worker import tables
from session_worker.authorize import Driver, Verdict, acl_verdict
from shared.commands import (
    DirectoryCommand,
    DriverStatus,
    RemoveDriver,
    RemoveStation,
    SetDriver,
    SetStation,
    SetTariff,
)
from shared.database import insert_rows
from shared.pricing import Tariff, tariff_of

DEFAULT_TARIFF: Final = "default"

_DRIVERS = text('SELECT * FROM drivers WHERE "driverId" = ANY(CAST(:ids AS text[]))')
_STATIONS = text('SELECT "stationId", open FROM stations WHERE "stationId" = ANY(CAST(:ids AS text[]))')
_TARIFFS = text("""
    SELECT * FROM tariffs WHERE name = 'default' OR "chargerIds" ?| CAST(:chargers AS text[]) ORDER BY name""")


@dataclass(slots=True)
class Directory:
    """What the batch knows: drivers, stations (whether open), tariffs by name with the chargers that each names."""

    drivers: dict[str, Driver] = field(default_factory=dict)
    stations: dict[str, bool] = field(default_factory=dict)
    tariffs: dict[str, tuple[Tariff, Collection[str]]] = field(default_factory=dict)
    changed: list[DirectoryCommand] = field(default_factory=list)

    def change(self, command: DirectoryCommand) -> None:
        """Take what an operator sets."""
        self.changed.append(command)
        match command:
            case SetDriver():
                self.drivers[command.driver_id] = Driver(
                    status=command.status,
                    valid_from=command.valid_from,
                    valid_until=command.valid_until,
                    stations=command.stations,
                )
            case RemoveDriver():
                self.drivers.pop(command.driver_id, None)
            case SetStation():
                self.stations[command.station_id] = command.open
            case RemoveStation():
                self.stations.pop(command.station_id, None)
            case SetTariff():
                self.tariffs[command.name] = (tariff_of(_row(command)), command.charger_ids or ())

    def verdict(self, driver_id: str, station_id: str, now: datetime) -> Verdict:
        """Judge a request by the tables."""
        return acl_verdict(self.drivers.get(driver_id), self.stations.get(station_id), station_id, now)

    def tariff_for(self, charger_id: str) -> Tariff | None:
        """Return the tariff that names the charger, else the default; of several, the first by name."""
        for name in sorted(self.tariffs):
            tariff, chargers = self.tariffs[name]
            if charger_id in chargers:
                return tariff
        default = self.tariffs.get(DEFAULT_TARIFF)
        return None if default is None else default[0]


async def read_directory(
    tx: AsyncConnection, *, drivers: Collection[str], stations: Collection[str], chargers: Collection[str]
) -> Directory:
    """Return what the tables say of these drivers and stations, and the tariffs that may serve these chargers."""
    directory = Directory()
    if drivers:
        for row in (await tx.execute(_DRIVERS, {"ids": list(drivers)})).mappings():
            directory.drivers[row["driverId"]] = _driver(row)
    if stations:
        for station_id, is_open in await tx.execute(_STATIONS, {"ids": list(stations)}):
            directory.stations[station_id] = is_open
    if chargers:
        for row in (await tx.execute(_TARIFFS, {"chargers": list(chargers)})).mappings():
            directory.tariffs[row["name"]] = (tariff_of(row), row["chargerIds"] or ())
    return directory


async def write_directory(tx: AsyncConnection, changed: Sequence[DirectoryCommand], now: datetime) -> None:
    """Write what was set, in order; of several changes to one row only the last matters."""
    last = {_key(command): command for command in changed}
    for (table, key), command in last.items():
        column = next(iter(table.primary_key.columns)).name
        if isinstance(command, RemoveDriver | RemoveStation):
            await tx.execute(table.delete().where(table.c[column] == key))
        else:
            await insert_rows(tx, table, [_row(command) | {"updatedAt": now}], _upsert(table, column))


def _key(command: DirectoryCommand) -> tuple[Table, str]:
    match command:
        case SetDriver() | RemoveDriver():
            return tables.drivers, command.driver_id
        case SetStation() | RemoveStation():
            return tables.stations, command.station_id
        case SetTariff():
            return tables.tariffs, command.name


def _row(command: SetDriver | SetStation | SetTariff) -> dict[str, Any]:
    return command.model_dump(by_alias=True)


def _upsert(table: Table, key: str) -> str:
    columns = [column.name for column in table.columns if column.name != key]
    return f'ON CONFLICT ("{key}") DO UPDATE SET ' + ", ".join(f'"{name}" = excluded."{name}"' for name in columns)


def _driver(row: Mapping[Any, Any]) -> Driver:
    return Driver(
        status=DriverStatus(row["status"]),
        valid_from=row["validFrom"],
        valid_until=row["validUntil"],
        stations=row["stations"],
    )

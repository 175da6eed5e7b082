"""The operator's commands: who may charge, where, and at what price. The path names the driver, station or tariff."""

from collections.abc import Callable
from typing import Any, Final

from gateway.auth import Scope
from gateway.command_route import OPERATOR_TAG, CommandRoute, IdFrom, IgnoredName, in_json
from gateway.resources import DRIVER, DRIVERS_PATH, STATION, STATIONS_PATH, TARIFF, TARIFFS_PATH, Resource
from shared.commands import AnyCommand, RemoveDriver, RemoveStation, SetDriver, SetStation, SetTariff


class SetDriverBody(SetDriver):
    """Who may charge, when and where; `stations` null is anywhere."""

    driver_id: IgnoredName = None  # type: ignore[assignment]  # the path names it


class SetStationBody(SetStation):
    """Whether a station takes requests."""

    station_id: IgnoredName = None  # type: ignore[assignment]  # the path names it


class SetTariffBody(SetTariff):
    """What sessions on these chargers are charged by from now on. Prices are before tax."""

    name: IgnoredName = None  # type: ignore[assignment]  # the path names it


def _route(
    method: str, path: str, body: type[AnyCommand], *, key: str, resource: Resource, **documented: Any
) -> CommandRoute:
    parameter = str(body.model_fields[key].alias)
    noun, is_set = parameter.removesuffix("Id") if parameter != "name" else "tariff", method == "PUT"
    message = f"{noun.capitalize()} {'update' if is_set else 'removal'} received"
    return CommandRoute(
        method=method,
        path=f"{path}/{{{parameter}}}",
        body=body,
        has_body=is_set,  # RFC 9110 gives the content of a DELETE no meaning
        key=key,
        id_from=IdFrom.PATH,
        acknowledge=_acknowledge(key, parameter, message),
        resource=resource if is_set else None,
        location=path if is_set else None,
        scope=Scope.OPERATOR,
        tag=OPERATOR_TAG,
        acknowledgement_example={"success": True, parameter: f"{noun.upper()}-1", "message": message},
        **documented,
    )


def _acknowledge(key: str, parameter: str, message: str) -> Callable[[Any], bytes]:
    def acknowledge(command: AnyCommand) -> bytes:
        return in_json({"success": True, parameter: getattr(command, key), "message": message})

    return acknowledge


DIRECTORY_COMMANDS: Final = (
    _route(
        "PUT",
        DRIVERS_PATH,
        SetDriverBody,
        key="driver_id",
        resource=DRIVER,
        summary="Set a driver",
        description="Says whether a driver may charge, from when to when, and at which stations (null: at any).",
        example={"status": "ALLOWED", "validUntil": "2027-01-01T00:00:00Z", "stations": ["STATION-1"]},
    ),
    _route(
        "DELETE",
        DRIVERS_PATH,
        RemoveDriver,
        key="driver_id",
        resource=DRIVER,
        summary="Remove a driver",
        description="Forgets a driver, whose requests are then invalid (`UNKNOWN_DRIVER`).",
    ),
    _route(
        "PUT",
        STATIONS_PATH,
        SetStationBody,
        key="station_id",
        resource=STATION,
        summary="Set a station",
        description="Opens a station for requests, or closes it.",
        example={"open": False, "reason": "Maintenance"},
    ),
    _route(
        "DELETE",
        STATIONS_PATH,
        RemoveStation,
        key="station_id",
        resource=STATION,
        summary="Remove a station",
        description="Forgets a station, at which requests are then not allowed (`UNKNOWN_STATION`).",
    ),
    _route(
        "PUT",
        TARIFFS_PATH,
        SetTariffBody,
        key="name",
        resource=TARIFF,
        summary="Set a tariff",
        description=(
            "Sets what sessions that start from now on are charged by, on the named chargers; the tariff `default` "
            "serves those that no other names. A session keeps the tariff with which it started."
        ),
        example={
            "currency": "EUR", "flat": "0.50", "perKwh": "0.45", "perIdleHour": "6.00", "stepWh": 100,
            "minimum": "1.00", "taxPercent": "19", "chargerIds": ["CHARGER-001"],
        },
    ),
)  # fmt: skip

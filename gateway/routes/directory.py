"""The operator's GETs: a driver, a station, a tariff, as the session worker has them now."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from gateway.auth import ApiKey, Caller, Scope
from gateway.command_route import OPERATOR_TAG
from gateway.database import Database
from gateway.incoming import name_in_path
from gateway.reads import read_one
from gateway.resources import DRIVER, DRIVERS_PATH, STATION, STATIONS_PATH, TARIFF, TARIFFS_PATH, Resource
from gateway.routes.reads import caller_with, found
from gateway.schemas import Driver, Station, Tariff


def directory_routes(database: Database, keys: tuple[ApiKey, ...] | None) -> APIRouter:
    """Return the routes. A name may hold slashes, percent-encoded or not."""
    router = APIRouter(tags=[OPERATOR_TAG])
    for path, resource, model in (
        (DRIVERS_PATH, DRIVER, Driver),
        (STATIONS_PATH, STATION, Station),
        (TARIFFS_PATH, TARIFF, Tariff),
    ):
        _add(router, path, resource, model, database=database, keys=keys)
    return router


def _add(
    router: APIRouter,
    path: str,
    resource: Resource,
    model: type[BaseModel],
    *,
    database: Database,
    keys: tuple[ApiKey, ...] | None,
) -> None:
    Operator = Annotated[Caller, Depends(caller_with(keys, Scope.OPERATOR))]  # noqa: N806 - a type
    noun = model.__name__.lower()

    @router.get(
        f"{path}/{{{resource.key}:path}}",
        summary=f"Get a {noun}",
        operation_id=f"{noun}.get",
        response_model=model,
    )
    async def get(request: Request, name: Annotated[str, Path(alias=resource.key)], caller: Operator) -> Response:  # noqa: ARG001 - documented
        key = name_in_path(request.scope, resource.key)
        return found(await read_one(database, resource, key, caller.sees_only), resource)

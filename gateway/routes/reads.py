"""The GETs of requests, sessions and exports. A client without the scope `operator` sees its own."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from gateway.auth import ApiKey, Caller, Scope, identify
from gateway.command_route import SESSION_TAG
from gateway.database import Database
from gateway.ocpi import Party, export
from gateway.ocpi_example import example_export
from gateway.problems import Kind, Problem
from gateway.reads import CURSOR_PATTERN, Cursor, SessionFilter, read_one, read_sessions
from gateway.resources import REQUEST, REQUESTS_PATH, SESSION, SESSIONS_PATH, Resource, Row
from gateway.schemas import Session, SessionExport, SessionPage, SessionRequest
from shared.clock import now_utc
from shared.commands import UtcTime
from shared.fields import Identifier
from shared.resources import Status

MOST_ITEMS = 100
ITEMS = 20

CursorText = Annotated[
    Cursor,
    BeforeValidator(lambda value: Cursor.decode(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": CURSOR_PATTERN, "description": "`nextCursor` of the page before."}),
]


class SessionQuery(BaseModel):
    """The query of the session list."""

    model_config = ConfigDict(alias_generator=to_camel, arbitrary_types_allowed=True)

    charger_id: Identifier | None = None
    driver_id: Identifier | None = None
    status: Status | None = None
    created_from: Annotated[UtcTime | None, Field(description="At or after this time.")] = None
    created_to: Annotated[UtcTime | None, Field(description="Before this time.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = ITEMS
    cursor: CursorText | None = None


def read_routes(database: Database, keys: tuple[ApiKey, ...] | None, party: Party) -> APIRouter:
    """Return the routes. Ids in paths match only as UUIDs, so that `…/start` stays a POST and nothing else."""

    Reader = Annotated[Caller, Depends(caller_with(keys, Scope.SESSIONS))]  # noqa: N806 - a type
    router = APIRouter(tags=[SESSION_TAG])

    @router.get(
        REQUESTS_PATH + "/{requestId:uuid}",
        summary="Get a charging session request with its decision",
        operation_id="session.request.get",
        response_model=SessionRequest,
    )
    async def get_request(request_id: Annotated[UUID, Path(alias="requestId")], caller: Reader) -> Response:
        return found(await read_one(database, REQUEST, request_id, caller.sees_only), REQUEST)

    @router.get(
        SESSIONS_PATH,
        summary="List charging sessions, newest first",
        operation_id="session.list",
        response_model=SessionPage,
    )
    async def list_sessions(query: Annotated[SessionQuery, Query()], caller: Reader) -> Response:
        rows, following = await read_sessions(database, _filter(query, caller))
        now = now_utc()
        items = [SESSION.to_json(row, now) for row in rows]
        return _json({"items": items, "nextCursor": following.encode() if following else None})

    @router.get(
        SESSIONS_PATH + "/{sessionId:uuid}",
        summary="Get a charging session",
        operation_id="session.get",
        response_model=Session,
    )
    async def get_session(session_id: Annotated[UUID, Path(alias="sessionId")], caller: Reader) -> Response:
        return found(await read_one(database, SESSION, session_id, caller.sees_only), SESSION)

    _add_export(router, database, party, Depends(caller_with(keys, Scope.SESSIONS)))
    return router


def _add_export(router: APIRouter, database: Database, party: Party, caller_of: Any) -> None:
    Reader = Annotated[Caller, caller_of]  # noqa: N806 - a type

    @router.get(
        SESSIONS_PATH + "/{sessionId:uuid}/cdr",
        summary="Export a charging session as OCPI 2.2.1",
        description=(
            "The session as OCPI's Session object, and its charge detail record: `cdr` is null until the session is "
            "completed and its cost is known. `total_cost` is the `finalCost` of the session."
        ),
        operation_id="session.cdr.get",
        response_model=SessionExport,
        responses={200: {"content": {"application/json": {"example": example_export()}}}},
    )
    async def get_cdr(session_id: Annotated[UUID, Path(alias="sessionId")], caller: Reader) -> Response:
        row = await read_one(database, SESSION, session_id, caller.sees_only)
        return _json(export(_known(row), party, now_utc()))


def caller_with(keys: tuple[ApiKey, ...] | None, *any_of: Scope) -> Callable[[Request], Caller]:
    """Return the dependency that yields a caller with one of the scopes, or raises the 401 or 403."""

    def caller(request: Request) -> Caller:
        identified = identify(keys, dict(request.scope["headers"]))
        identified.require(*any_of)
        return identified

    return caller


def _filter(query: SessionQuery, caller: Caller) -> SessionFilter:
    return SessionFilter(
        client=caller.sees_only,
        charger_id=query.charger_id,
        driver_id=query.driver_id,
        status=query.status,
        created_from=query.created_from,
        created_to=query.created_to,
        limit=query.limit,
        after=query.cursor,
    )


def found(row: Row | None, resource: Resource) -> Response:
    """Return the JSON of the row, or raise the 404."""
    return _json(resource.to_json(_known(row), now_utc()))


def _known(row: Row | None) -> Row:
    if row is None:
        raise Problem(Kind.NOT_FOUND, "Nothing is known of this id, or not yet.")
    return row


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")

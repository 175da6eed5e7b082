"""The GETs: a request's decision, a session, sessions. A client without the scope `operator` sees its own."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from gateway.auth import ApiKey, Caller, Scope, identify
from gateway.commands import REQUESTS_PATH, SESSIONS_PATH
from gateway.problems import Kind, Problem
from gateway.reads import (
    CURSOR_PATTERN,
    Cursor,
    Database,
    Row,
    SessionFilter,
    read_request,
    read_session,
    read_sessions,
)
from gateway.schemas import Session, SessionPage, SessionRequest
from shared.fields import Identifier
from shared.resources import Status, request_json, session_json

TAG = "Session Management"
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
    limit: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = ITEMS
    cursor: CursorText | None = None


def read_routes(database: Database, keys: tuple[ApiKey, ...] | None) -> APIRouter:
    """Return the routes. Ids in paths match only as UUIDs, so that `…/start` stays a POST and nothing else."""

    Reader = Annotated[Caller, Depends(_reader(keys))]  # noqa: N806 - a type
    router = APIRouter(tags=[TAG])

    @router.get(
        REQUESTS_PATH + "/{requestId:uuid}",
        summary="Get a charging session request with its decision",
        operation_id="session.request.get",
        response_model=SessionRequest,
    )
    async def get_request(request_id: Annotated[UUID, Path(alias="requestId")], caller: Reader) -> Response:
        return _found(await read_request(database, request_id, caller.sees_only), request_json)

    @router.get(
        SESSIONS_PATH,
        summary="List charging sessions, newest first",
        operation_id="session.list",
        response_model=SessionPage,
    )
    async def list_sessions(query: Annotated[SessionQuery, Query()], caller: Reader) -> Response:
        rows, following = await read_sessions(database, _filter(query, caller))
        items = [session_json(row) for row in rows]
        return _json({"items": items, "nextCursor": following.encode() if following else None})

    @router.get(
        SESSIONS_PATH + "/{sessionId:uuid}",
        summary="Get a charging session",
        operation_id="session.get",
        response_model=Session,
    )
    async def get_session(session_id: Annotated[UUID, Path(alias="sessionId")], caller: Reader) -> Response:
        return _found(await read_session(database, session_id, caller.sees_only), session_json)

    return router


def _reader(keys: tuple[ApiKey, ...] | None) -> Callable[[Request], Caller]:
    def reader(request: Request) -> Caller:
        caller = identify(keys, dict(request.scope["headers"]))
        caller.require(Scope.SESSIONS)
        return caller

    return reader


def _filter(query: SessionQuery, caller: Caller) -> SessionFilter:
    return SessionFilter(
        client=caller.sees_only,
        charger_id=query.charger_id,
        driver_id=query.driver_id,
        status=query.status,
        limit=query.limit,
        after=query.cursor,
    )


def _found(row: Row | None, to_json: Callable[[Row], dict[str, Any]]) -> Response:
    if row is None:
        raise Problem(Kind.NOT_FOUND, "Nothing is known of this id, or not yet.")
    return _json(to_json(row))


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")

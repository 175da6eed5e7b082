"""The GETs of callbacks and subscriptions. A client without the scope `operator` sees its own callbacks.

Subscriptions are everybody's own: an operator's, too.
"""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gateway.auth import ApiKey, Caller, Scope
from gateway.callback_reads import CallbackFilter, read_callback, read_callbacks, read_subscriptions
from gateway.callback_schemas import CallbackPage, CallbackWithAttempts, Subscription, SubscriptionPage
from gateway.command_route import CALLBACK_TAG
from gateway.database import Database
from gateway.incoming import name_in_path
from gateway.problems import Kind, Problem
from gateway.reads import read_one
from gateway.resources import CALLBACK, CALLBACKS_PATH, SUBSCRIPTION, SUBSCRIPTIONS_PATH, Row, plain_json
from gateway.routes.reads import ITEMS, MOST_ITEMS, CursorText, caller_with, found
from shared.callbacks import State
from shared.clock import now_utc


class CallbackQuery(BaseModel):
    """The query of the log."""

    model_config = ConfigDict(alias_generator=to_camel, arbitrary_types_allowed=True)

    session_id: UUID | None = None
    request_id: UUID | None = None
    state: State | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = ITEMS
    cursor: CursorText | None = None


def callback_routes(database: Database, keys: tuple[ApiKey, ...] | None) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=[CALLBACK_TAG])
    caller_of = Depends(caller_with(keys, Scope.SESSIONS))
    _add_log(router, database, caller_of)
    _add_subscriptions(router, database, caller_of)
    return router


def _add_log(router: APIRouter, database: Database, caller_of: Any) -> None:
    Reader = Annotated[Caller, caller_of]  # noqa: N806 - a type

    @router.get(
        CALLBACKS_PATH,
        summary="List callbacks, newest first",
        operation_id="callback.list",
        response_model=CallbackPage,
    )
    async def list_callbacks(query: Annotated[CallbackQuery, Query()], caller: Reader) -> Response:
        rows, following = await read_callbacks(database, _filter(query, caller))
        now = now_utc()
        items = [CALLBACK.to_json(row, now) for row in rows]
        return _json({"items": items, "nextCursor": following.encode() if following else None})

    @router.get(
        CALLBACKS_PATH + "/{callbackId:uuid}",
        summary="Get a callback with its attempts and the exact signed body",
        operation_id="callback.get",
        response_model=CallbackWithAttempts,
    )
    async def get_callback(callback_id: Annotated[UUID, Path(alias="callbackId")], caller: Reader) -> Response:
        read = await read_callback(database, callback_id, caller.sees_only)
        if read is None:
            raise Problem(Kind.NOT_FOUND, "There is no such callback.")
        return _json(_with_attempts(*read))


def _add_subscriptions(router: APIRouter, database: Database, caller_of: Any) -> None:
    Reader = Annotated[Caller, caller_of]  # noqa: N806 - a type

    @router.get(
        SUBSCRIPTIONS_PATH,
        summary="List your subscriptions",
        operation_id="subscription.list",
        response_model=SubscriptionPage,
    )
    async def list_subscriptions(caller: Reader) -> Response:
        now = now_utc()
        items = [SUBSCRIPTION.to_json(row, now) for row in await read_subscriptions(database, caller.client)]
        return _json({"items": items, "nextCursor": None})

    @router.get(
        SUBSCRIPTIONS_PATH + "/{name:path}",
        summary="Get a subscription",
        operation_id="subscription.get",
        response_model=Subscription,
    )
    async def get_subscription(request: Request, name: Annotated[str, Path()], caller: Reader) -> Response:  # noqa: ARG001 - documented
        key = name_in_path(request.scope, SUBSCRIPTION.key)
        return found(await read_one(database, SUBSCRIPTION, key, SUBSCRIPTION.client_for(caller)), SUBSCRIPTION)


def _filter(query: CallbackQuery, caller: Caller) -> CallbackFilter:
    return CallbackFilter(
        client=caller.sees_only,
        session_id=query.session_id,
        request_id=query.request_id,
        state=query.state,
        limit=query.limit,
        after=query.cursor,
    )


def _with_attempts(row: Row, attempts: list[Row]) -> dict[str, Any]:
    return CALLBACK.to_json(row, now_utc()) | {"attempts": [plain_json(attempt) for attempt in attempts]}


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")

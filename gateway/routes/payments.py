"""What is read of payments, and what their provider says: the link of a session, and the provider's webhook."""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response

from gateway.auth import ApiKey, Caller, Scope
from gateway.command_route import PAYMENT_TAG
from gateway.database import Database
from gateway.incoming import read_body
from gateway.problems import Kind, Problem
from gateway.publishing import CommandPublisher
from gateway.reads import read_one
from gateway.resources import PAYMENT_LINK, PAYMENT_LINKS_PATH, PAYMENTS_PATH, SESSION
from gateway.routes.reads import caller_with, found
from gateway.schemas import EventReceived, PaymentLink
from gateway.webhooks import MAX_EVENT_BYTES, Webhooks, publish_event

_RECEIVED = orjson.dumps({"received": True})
_NO_LINK = "The session has no payment link: nothing is owed, or it is being made."
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "object"},
            "example": {"id": "my-event-1", "type": "link.paid", "linkId": "123e4567-e89b-12d3-a456-426614174000"},
        }
    },
}
# An empty list, other than none, says that no key is needed.
_DOCUMENTED: dict[str, Any] = {"requestBody": _BODY, "security": []}


def payment_routes(
    commands: CommandPublisher, database: Database, keys: tuple[ApiKey, ...] | None, webhooks: Webhooks
) -> APIRouter:
    """Return the routes."""
    Reader = Annotated[Caller, Depends(caller_with(keys, Scope.SESSIONS, Scope.PAYMENTS))]  # noqa: N806 - a type
    router = APIRouter(tags=[PAYMENT_TAG])

    @router.get(
        PAYMENT_LINKS_PATH + "/{sessionId:uuid}",
        summary="Get the payment link of a session",
        description=(
            "The current link: 404 while there is none. A link that could not be made has the status `FAILED` and no "
            "`url`. Needs the scope `sessions` or `payments`."
        ),
        operation_id="payment.link.get",
        response_model=PaymentLink,
    )
    async def get_link(session_id: Annotated[UUID, Path(alias="sessionId")], caller: Reader) -> Response:
        row = await read_one(database, PAYMENT_LINK, session_id, caller.sees_only)
        if row is None and await read_one(database, SESSION, session_id, caller.sees_only) is not None:
            raise Problem(Kind.NOT_FOUND, _NO_LINK)
        return found(row, PAYMENT_LINK)

    _add_webhook(router, commands, webhooks)
    return router


def _add_webhook(router: APIRouter, commands: CommandPublisher, webhooks: Webhooks) -> None:
    @router.post(
        PAYMENTS_PATH + "/webhooks/{provider}",
        summary="Take an event of the payment provider",
        description=(
            "For the provider that `PAYMENT_PROVIDER` names, and no other. Needs no API key: Stripe's signature "
            "(`Stripe-Signature`, over the raw body) is the key. The sandbox's events have none, since no money moves "
            "there; their body is as in the example, `type` `link.paid` or `link.declined`, `linkId` the payment "
            "link's. An event with an id that was seen before changes nothing. 200 means that the broker has the "
            "event on disk; providers repeat what was answered otherwise."
        ),
        operation_id="payment.provider_event.v1",
        response_model=EventReceived,
        openapi_extra=_DOCUMENTED,
    )
    async def post_event(request: Request, provider: Annotated[str, Path(examples=["stripe"])]) -> Response:
        if webhooks.read is None or provider != webhooks.provider:
            raise Problem(Kind.NOT_FOUND, "This is not the payment provider here.")
        headers = dict(request.scope["headers"])
        body = await read_body(request.receive, headers, most_bytes=MAX_EVENT_BYTES)
        await publish_event(commands, webhooks.read(body, headers), headers)
        return Response(_RECEIVED, media_type="application/json")

"""The commands about callbacks: redelivery of one and of many, and standing subscriptions."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from gateway.auth import Caller, Scope
from gateway.callback_reads import count_callbacks
from gateway.command_route import CALLBACK_TAG, CommandRoute, IdFrom, IgnoredId, IgnoredName, in_json
from gateway.database import Database
from gateway.problems import Kind, Problem
from gateway.reads import read_one
from gateway.resources import CALLBACK, CALLBACKS_PATH, SUBSCRIPTION, SUBSCRIPTIONS_PATH
from shared.callback_commands import FILTER_KEYS, Redeliver, RemoveSubscription, SetSubscription
from shared.errors import VoltlineError

_EXAMPLE_ID: Final = "0198c0de-0000-7000-8000-000000000001"


class RedeliverBody(Redeliver):
    """Which callbacks are sent again: those that match every key that is there. `dryRun` only counts them."""

    callback_id: IgnoredId = None
    # False is what its absence is, so that both are one command on the queue.
    dry_run: Annotated[bool | None, AfterValidator(lambda value: value or None)] = None


class SetSubscriptionBody(SetSubscription):
    """Where every event of your sessions and requests goes, too; `types` null is events of any type."""

    name: IgnoredName = None  # type: ignore[assignment]  # the path names it


async def _find_first(database: Database, command: Redeliver, caller: Caller) -> Mapping[str, Any] | None:
    """Raise the 404 of a callback that the caller does not have; while the database is away, the worker looks."""
    assert command.callback_id is not None
    try:
        row = await read_one(database, CALLBACK, command.callback_id, caller.sees_only)
    except VoltlineError:
        return None
    if row is None:
        raise Problem(Kind.NOT_FOUND, "There is no such callback.")
    return None


async def _count_first(database: Database, command: RedeliverBody, _: Caller) -> Mapping[str, Any] | None:
    """A dry run is answered with what it finds, and nothing is published."""
    return {"count": await count_callbacks(database, command)} if command.dry_run else None


def _redelivered(callback_id: str) -> dict[str, Any]:
    return {"success": True, "callbackId": callback_id, "message": "Callback redelivery received"}


def _acknowledge_one(command: Redeliver) -> bytes:
    return in_json(_redelivered(str(command.callback_id)))


_MANY: Final = {"success": True, "message": "Callback redelivery received"}
_MANY_JSON: Final = in_json(_MANY)


def _acknowledge_many(_: Redeliver) -> bytes:
    return _MANY_JSON


def _subscribed(name: str, what: str) -> dict[str, Any]:
    return {"success": True, "name": name, "message": f"Subscription {what} received"}


def _acknowledge_set(command: SetSubscription) -> bytes:
    return in_json(_subscribed(command.name, "update"))


def _acknowledge_removal(command: RemoveSubscription) -> bytes:
    return in_json(_subscribed(command.name, "removal"))


CALLBACK_COMMANDS: Final = (
    CommandRoute(
        path=f"{CALLBACKS_PATH}/{{callbackId}}/redeliver",
        body=Redeliver,
        has_body=False,
        key="callback_id",
        id_from=IdFrom.ID_IN_PATH,
        acknowledge=_acknowledge_one,
        resource=CALLBACK,
        look_first=_find_first,
        location=CALLBACKS_PATH,
        tag=CALLBACK_TAG,
        operation_id="callback.redeliver_one.v1",
        summary="Send a callback again",
        description=(
            "Makes one attempt more, with the same `webhook-id` and body, whatever the state. Delivered, the callback "
            "is `DELIVERED`; else its state and its scheduled retries stay as they are. The attempt is `manual` in the "
            "log. Unless you are an operator, 100 within an hour are the most for one callback "
            "(`TOO_MANY_REDELIVERIES`)."
        ),
        acknowledgement_example=_redelivered(_EXAMPLE_ID),
    ),
    CommandRoute(
        path=f"{CALLBACKS_PATH}/redeliver",
        body=RedeliverBody,
        key="callback_id",
        acknowledge=_acknowledge_many,
        resource=None,
        look_first=_count_first,
        scope=Scope.OPERATOR,
        tag=CALLBACK_TAG,
        operation_id="callback.redeliver_many.v1",
        summary="Send many callbacks again",
        description=(
            f"Makes one attempt more at each callback that matches every key given, of {', '.join(FILTER_KEYS)}; at "
            "least one must be. It goes on in the background, at 50 a second and host at the most. With `dryRun` "
            "nothing is sent, and the answer is 200 with their `count`. Needs the scope `operator`."
        ),
        example={"state": "FAILED", "host": "subscriber.example", "createdFrom": "2026-05-04T12:00:00Z"},
        acknowledgement_example=_MANY,
    ),
    CommandRoute(
        method="PUT",
        path=f"{SUBSCRIPTIONS_PATH}/{{name}}",
        body=SetSubscriptionBody,
        key="name",
        id_from=IdFrom.PATH,
        acknowledge=_acknowledge_set,
        resource=SUBSCRIPTION,
        location=SUBSCRIPTIONS_PATH,
        tag=CALLBACK_TAG,
        summary="Set a subscription",
        description=(
            "Sends every event of your sessions and requests to this URL, beside their own `callbackUrl`: those of "
            "`types`, or all. `paused` keeps it and sends nothing. A client has 20 at the most "
            "(`TOO_MANY_SUBSCRIPTIONS`)."
        ),
        example={"url": "https://subscriber.example/voltline", "types": ["session.completed", "payment.paid"]},
        acknowledgement_example=_subscribed("billing", "update"),
    ),
    CommandRoute(
        method="DELETE",
        path=f"{SUBSCRIPTIONS_PATH}/{{name}}",
        body=RemoveSubscription,
        has_body=False,
        key="name",
        id_from=IdFrom.PATH,
        acknowledge=_acknowledge_removal,
        resource=None,
        tag=CALLBACK_TAG,
        summary="Remove a subscription",
        description="Sends no more events there. Callbacks that are under way go on.",
        acknowledgement_example=_subscribed("billing", "removal"),
    ),
)

"""What a caller is shown who waited for a command: the resource as it now is, or the refusal."""

from typing import Any, Final

from gateway.auth import Caller
from gateway.command_route import CommandRoute
from gateway.database import Database
from gateway.outcomes import End
from gateway.problems import Kind, Problem
from gateway.reads import read_one
from gateway.resources import REQUEST, Row
from shared.clock import now_utc
from shared.commands import Command

# The codes are the session worker's; one that has no words here speaks for itself.
_IN_WORDS: Final = {
    "ALREADY_ENDED": "The session has already ended.",
    "ALREADY_PAID": "The session is already paid.",
    "ALREADY_REFUNDED": "All that was paid is already given back, or on its way.",
    "AMOUNT_TOO_LARGE": "The amount is more than what is left of the payment.",
    "CHARGER_BUSY": "The charger already has a session in progress.",
    "CONCURRENT_SESSION": "The driver already has a session in progress at this station.",
    "IDEMPOTENCY_CONFLICT": "The Idempotency-Key was used before with another body, which stands; nothing is changed.",
    "INVALID_AMOUNT": "The currency has no such fraction.",
    "LINK_FAILED": "The payment provider could not make the link.",
    "NOTHING_TO_PAY": "The session costs nothing, or too little to be collected.",
    "NOT_COMPLETED": "The session is still in progress.",
    "NOT_PAID": "Nothing was paid for the session.",
    "NOT_PRIVILEGED": "This needs the scope operator.",
    "OTHER_PROVIDER": "The session is paid through a provider that is not in use any more.",
    "PAYMENTS_OFF": "No payments are taken here.",
    "PAYMENT_PROCESSING": "A payment is being processed; `force` makes another link all the same.",
    "PROVIDER_DECLINED": "The payment provider has declined it.",
    "REFUND_FAILED": "The payment provider could not give the money back.",
    "TOO_MANY_REDELIVERIES": "The callback was sent again as often as it may be within an hour; try later.",
    "TOO_OLD": "The command waited for longer than messages are remembered; send it again, as a new one.",
    "TOO_MANY_SUBSCRIPTIONS": "The client has as many subscriptions as it may have; remove one.",
    "UNKNOWN_CALLBACK": "There is no such callback.",
    "SESSION_EXISTS": "There already is a session or request with this id.",
    "UNKNOWN_SESSION": "There is no such session.",
}


async def shown(
    database: Database, route: CommandRoute, command: Command, end: End, caller: Caller
) -> dict[str, Any] | None:
    """Return the JSON of what the command is about, None where it cannot be found; raise the 409 of a refusal.

    Raises Unavailable or NotProvisioned when the database does not tell.
    """
    key = getattr(command, route.key)
    if route.resource is REQUEST or (end.is_applied and route.resource is not None):
        row = await read_one(database, route.resource, key, route.resource.client_for(caller))
        if end.is_applied or _is_decision(row, end):
            return None if row is None else route.resource.to_json(row, now_utc())
    if not end.is_applied:
        reason = end.reason or "REFUSED"
        raise Problem(Kind.REFUSED, _IN_WORDS.get(reason, f"The command was refused: {reason}."), reason=reason)
    return {route.parameter: key, "deleted": True} if route.method == "DELETE" else None


def _is_decision(request: Row | None, end: End) -> bool:
    """A request that was not allowed has its answer all the same; one that conflicts with another has none."""
    return request is not None and request["decision"] is not None and request["reason"] == end.reason

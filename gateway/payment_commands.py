"""The commands about payments: another link, a refund. Whose session it is, the session worker checks."""

from typing import Any, Final

from gateway.auth import Scope
from gateway.command_route import PAYMENT_TAG, CommandRoute, in_json
from gateway.resources import PAYMENT_LINK, PAYMENTS_PATH, SESSION
from shared.commands import RecreatePaymentLink, RefundPayment

_EXAMPLE_ID: Final = "123e4567-e89b-12d3-a456-426614174000"


def _taken(session_id: str, what: str) -> dict[str, Any]:
    return {"success": True, "sessionId": session_id, "message": f"Payment {what} request received"}


def _acknowledge_link(command: RecreatePaymentLink) -> bytes:
    return in_json(_taken(str(command.session_id), "link"))


def _acknowledge_refund(command: RefundPayment) -> bytes:
    return in_json(_taken(str(command.session_id), "refund"))


PAYMENT_COMMANDS: Final = (
    CommandRoute(
        path=f"{PAYMENTS_PATH}/recreate-link",
        body=RecreatePaymentLink,
        key="session_id",
        acknowledge=_acknowledge_link,
        resource=PAYMENT_LINK,
        scope=Scope.PAYMENTS,
        tag=PAYMENT_TAG,
        summary="Recreate a payment link",
        description=(
            "Replaces the session's payment link by a new one; the old one is ended at the provider first, so that "
            "nobody pays twice. `force` does so even while a payment on the old link is being processed: what is then "
            "paid too much is given back by itself."
        ),
        example={"sessionId": _EXAMPLE_ID, "expiresInMinutes": 60},
        acknowledgement_example=_taken(_EXAMPLE_ID, "link"),
    ),
    CommandRoute(
        path=f"{PAYMENTS_PATH}/refund",
        body=RefundPayment,
        key="session_id",
        acknowledge=_acknowledge_refund,
        resource=SESSION,
        scope=Scope.PAYMENTS,
        tag=PAYMENT_TAG,
        summary="Refund a payment",
        description="Gives back what was paid for a session: `amount` of it, or all that is left.",
        example={"sessionId": _EXAMPLE_ID, "amount": "4.55", "reason": "The charger failed"},
        acknowledgement_example=_taken(_EXAMPLE_ID, "refund"),
    ),
)

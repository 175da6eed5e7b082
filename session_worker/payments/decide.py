"""Decides the commands of the queue `session_worker.payments`, pure: from the rules of payments to a `Decided`."""

from dataclasses import replace
from typing import Final

from session_worker.decide import Decided, Facts, refuse
from session_worker.payments.payment import Payment, payment_json
from session_worker.payments.rules import Ruling, look_again, recreate, refund
from session_worker.session import Outcome, Reason, Received, Session
from shared.commands import PaymentCommand, ProviderEvent, RecreatePaymentLink, RefundPayment
from shared.resources import Phase

PAYMENT_TYPES: Final = frozenset(model.TYPE for model in (RecreatePaymentLink, RefundPayment, ProviderEvent))


def decide_payment(session: Session | None, received: Received, facts: Facts) -> Decided:
    """Apply one command to one session's payment."""
    command = received.command
    assert isinstance(command, PaymentCommand)
    if isinstance(command, ProviderEvent):
        return _look_again(facts)
    if session is None or not received.may_act_on(session):
        return refuse(None, received, Reason.UNKNOWN_SESSION, facts)
    reason = _obstacle(session, facts)
    if reason is not None:
        return refuse(session, received, reason, facts)
    ruling = _ruling(facts.payment, command, received, facts)
    if ruling.reason is not None:
        return refuse(session, received, ruling.reason, facts)
    if ruling.payment is None:
        return Decided(outcome=ruling.outcome)
    owing = replace(session, payment=payment_json(ruling.payment), updated_at=facts.now)
    return Decided(outcome=ruling.outcome, session=owing, payment=ruling.payment)


def _obstacle(session: Session, facts: Facts) -> Reason | None:
    if facts.terms is None:
        return Reason.PAYMENTS_OFF
    if session.phase is not Phase.COMPLETED:
        return Reason.NOT_COMPLETED
    if facts.payment is not None and facts.payment.provider != facts.terms.provider:
        return Reason.OTHER_PROVIDER
    return None


def _ruling(
    payment: Payment | None, command: RecreatePaymentLink | RefundPayment, received: Received, facts: Facts
) -> Ruling:
    if isinstance(command, RecreatePaymentLink):
        return recreate(payment, command, received.message_id, facts.now)
    return refund(payment, command, received.message_id, facts.now)


def _look_again(facts: Facts) -> Decided:
    """A provider's event says where to look; what it is about is read there, so an old or false one does no harm."""
    if facts.payment is None or facts.notice is None:
        return Decided(outcome=Outcome.REFUSED, reason=Reason.UNKNOWN_PAYMENT)
    return Decided(outcome=Outcome.APPLIED, payment=look_again(facts.payment, facts.notice, facts.now))

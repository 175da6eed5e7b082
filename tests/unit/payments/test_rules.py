"""What a session owes, and what may be asked of its payment."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from session_worker.payments import provider
from session_worker.payments.learning import (
    Answer,
    Learned,
    LinkFound,
    LinkMissing,
    LinkRefused,
    RefundFound,
    RefundRefused,
)
from session_worker.payments.learning import learn as learn_since
from session_worker.payments.payment import LinkStatus, Payment, PaymentStatus, RefundStatus, payment_json
from session_worker.payments.provider import LinkState, Notice, RefundState
from session_worker.payments.rules import Ruling, Terms, look_again, open_payment, recreate, refund
from session_worker.payments.steps import CheckLink, CreateLink, ExpireLink, SendRefund, Step, begin
from session_worker.session import Outcome, Reason
from shared.commands import RecreatePaymentLink, RefundPayment
from shared.events import EventType
from tests.builders import NOW

SESSION, COMMAND, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
TERMS = Terms(provider="sandbox", minimum_minor={"EUR": 50, "JPY": 50})
LATER = NOW + timedelta(days=2)


def learn(payment: Payment, answer: Answer, now: datetime) -> Learned:
    """An answer to a question that was asked just before."""
    return learn_since(payment, answer, now, now)


def next_step(payment: Payment, description: str, now: datetime) -> Step | None:
    begun = begin(payment, description, now)
    return None if begun is None else begun[1]


def opened(cost: str = "12.34", currency: str = "EUR") -> Payment:
    payment = open_payment(SESSION, cost=Decimal(cost), currency=currency, terms=TERMS, now=NOW)
    assert payment is not None
    return payment


def found(payment: Payment, state: LinkState, number: int = 1) -> LinkFound:
    link = payment.links[number - 1]
    paid = payment.money(link.amount) if state is LinkState.PAID else None
    return LinkFound(
        link.id,
        provider.Link(
            link_id=f"cs_{number}",
            url=f"https://pay.example/{number}",
            state=state,
            expires_at=link.expires_at,
            payment_id=f"pi_{number}" if paid else None,
            paid=paid,
        ),
    )


def after(payment: Payment, state: LinkState, number: int = 1) -> Payment:
    asked = replace(payment.links[number - 1], asked_at=NOW)
    return learn(payment.with_link(asked), found(payment, state, number), NOW).payment


def active() -> Payment:
    return after(opened(), LinkState.OPEN)


def paid() -> Payment:
    return after(active(), LinkState.PAID)


def with_new_link(payment: Payment, *, force: bool = False) -> Payment:
    ruling = recreate(payment, RecreatePaymentLink(session_id=SESSION, force=force), COMMAND, NOW)
    assert ruling.payment is not None
    return ruling.payment


def back(payment: Payment | None, amount: str | None = None, cause: UUID = COMMAND) -> Ruling:
    wanted = None if amount is None else Decimal(amount)
    return refund(payment, RefundPayment(session_id=SESSION, amount=wanted), cause, NOW)


def refunded(payment: Payment, state: RefundState, index: int = 0) -> Payment:
    answer = RefundFound(payment.refunds[index].id, provider.Refund(refund_id=f"re_{index}", state=state))
    return learn(payment, answer, NOW).payment


@pytest.mark.parametrize(
    ("cost", "currency", "status"),
    [
        ("0.00", "EUR", PaymentStatus.NOT_REQUIRED),
        ("0.49", "EUR", PaymentStatus.WAIVED),
        ("0.50", "EUR", PaymentStatus.PENDING),
        ("49", "JPY", PaymentStatus.WAIVED),
        ("500", "JPY", PaymentStatus.PENDING),
    ],
)
def test_only_a_cost_that_the_provider_can_collect_gets_a_link(cost: str, currency: str, status: PaymentStatus) -> None:
    payment = opened(cost, currency)
    assert payment.status is status
    assert len(payment.links) == (status is PaymentStatus.PENDING)
    assert (payment.due_at is not None) == (status is PaymentStatus.PENDING)


def test_a_cost_that_nobody_knows_is_no_debt() -> None:
    assert open_payment(SESSION, cost=None, currency="EUR", terms=TERMS, now=NOW) is None


def test_yen_are_counted_whole() -> None:
    step = next_step(opened("500", "JPY"), "", NOW)
    assert isinstance(step, CreateLink)
    assert step.order.money.minor == 500


def test_the_order_is_stored_before_the_call_and_the_same_in_every_repetition() -> None:
    """A link's life begins when it is first asked for."""
    first = begin(opened(), "", LATER)
    assert first is not None
    noted, step = first
    assert isinstance(step, CreateLink)
    assert not step.was_asked
    assert (noted.links[0].asked_at, noted.links[0].expires_at) == (LATER, step.order.expires_at)
    again = next_step(noted, "", LATER + timedelta(minutes=5))
    assert isinstance(again, CreateLink)
    assert again.was_asked
    assert again.order == step.order


def test_the_shortest_link_is_long_enough_for_a_provider_that_counts_by_its_own_clock() -> None:
    ruling = recreate(active(), RecreatePaymentLink(session_id=SESSION, expires_in_minutes=30), COMMAND, NOW)
    assert ruling.payment is not None
    payment = learn(ruling.payment, found(ruling.payment, LinkState.EXPIRED), NOW).payment
    step = next_step(payment, "", NOW)
    assert isinstance(step, CreateLink)
    assert step.order.expires_at - NOW > timedelta(minutes=31)


def test_an_order_that_is_not_taken_is_made_anew_some_times_and_then_given_up() -> None:
    payment = with_new_link(after(opened(), LinkState.FAILED))
    link_id, keys = payment.links[-1].id, set()
    for _ in range(4):
        again = learn(payment, LinkMissing(link_id, is_refused=True), NOW)
        assert again.resolutions == ()
        assert next_step(again.payment, "", NOW) is None, "not at once"
        payment = again.payment
        keys.add(payment.links[-1].key)
    assert len(keys) == 4
    given_up = learn(payment, LinkMissing(link_id, is_refused=True), NOW)
    assert given_up.payment.status is PaymentStatus.FAILED
    assert [(each.message_id, each.reason) for each in given_up.resolutions] == [(COMMAND, Reason.LINK_FAILED)]


def test_what_a_webhook_points_at_while_a_question_is_asked_is_looked_at_again() -> None:
    payment = look_again(active(), Notice(link_id="cs_1"), NOW + timedelta(seconds=1))
    stale = learn_since(payment, found(payment, LinkState.OPEN), NOW, NOW + timedelta(seconds=2))
    assert isinstance(next_step(stale.payment, "", NOW + timedelta(seconds=2)), CheckLink)


def test_a_slow_payment_that_fails_is_told_also_after_somebody_wanted_another_link() -> None:
    payment = after(with_new_link(active()), LinkState.PROCESSING)
    assert payment.status is PaymentStatus.PROCESSING
    learned = learn(payment, found(payment, LinkState.FAILED), NOW)
    assert [note.type for note in learned.notes] == [EventType.PAYMENT_FAILED]


def test_all_who_ask_for_a_new_link_get_the_one_that_is_made() -> None:
    first = with_new_link(active())
    joined = recreate(first, RecreatePaymentLink(session_id=SESSION, expires_in_minutes=60), OTHER, NOW)
    assert joined.outcome is Outcome.PARKED
    assert joined.payment is not None
    assert joined.payment.links[-1].lifetime_minutes == 60
    payment = learn(joined.payment, found(first, LinkState.EXPIRED), NOW).payment
    learned = learn(payment, found(payment, LinkState.OPEN, number=2), NOW)
    assert {(each.message_id, each.outcome) for each in learned.resolutions} == {
        (COMMAND, Outcome.APPLIED),
        (OTHER, Outcome.APPLIED),
    }


def test_a_session_does_not_get_links_and_refunds_without_end() -> None:
    payment = after(opened(), LinkState.FAILED)
    for number in range(2, 51):
        payment = after(with_new_link(payment), LinkState.FAILED, number=number)
    assert recreate(payment, RecreatePaymentLink(session_id=SESSION), COMMAND, NOW).reason is Reason.TOO_MANY


def test_a_refund_that_the_provider_refused_is_not_asked_after() -> None:
    asked = back(paid())
    assert asked.payment is not None
    refused = learn(asked.payment, RefundRefused(asked.payment.refunds[0].id, "PROVIDER_DECLINED"), NOW).payment
    assert next_step(look_again(refused, Notice(reference=refused.refunds[0].id), NOW), "", NOW) is None


def test_a_link_is_told_once() -> None:
    payment = opened()
    first = learn(payment, found(payment, LinkState.OPEN), NOW)
    second = learn(first.payment, found(payment, LinkState.OPEN), NOW)
    assert [note.type for note in first.notes] == [EventType.PAYMENT_LINK_CREATED]
    assert second.notes == ()


def test_a_new_link_waits_until_the_old_one_is_ended_at_the_provider() -> None:
    payment = with_new_link(active())
    step = next_step(payment, "", NOW)
    assert isinstance(step, ExpireLink)
    ended = learn(payment, found(payment, LinkState.EXPIRED), NOW).payment
    assert ended.links[0].status is LinkStatus.SUPERSEDED
    assert isinstance(next_step(ended, "", NOW), CreateLink)


def test_a_link_that_was_paid_before_it_could_be_ended_settles_the_debt_and_the_new_one_is_refused() -> None:
    payment = with_new_link(active())
    learned = learn(payment, found(payment, LinkState.PAID), NOW)
    assert learned.payment.status is PaymentStatus.PAID
    assert [note.type for note in learned.notes] == [EventType.PAYMENT_PAID, EventType.COMMAND_REJECTED]
    assert [(r.message_id, r.reason) for r in learned.resolutions] == [(COMMAND, Reason.ALREADY_PAID)]
    assert next_step(learned.payment, "", NOW) is None


def test_a_payment_on_a_superseded_link_is_taken_while_the_debt_is_open_and_the_other_link_is_ended() -> None:
    payment = with_new_link(active())
    payment = after(payment, LinkState.EXPIRED)
    payment = after(payment, LinkState.OPEN, number=2)
    learned = learn(payment, found(payment, LinkState.PAID), NOW)
    assert learned.payment.status is PaymentStatus.PAID
    step = next_step(learned.payment, "", NOW)
    assert isinstance(step, ExpireLink)
    assert step.ref.reference == payment.links[1].id


def test_a_second_payment_is_refunded_by_itself() -> None:
    payment = after(after(with_new_link(active()), LinkState.EXPIRED), LinkState.OPEN, number=2)
    payment = after(payment, LinkState.PAID, number=2)
    learned = learn(payment, found(payment, LinkState.PAID), NOW)
    assert learned.payment.paid_amount == Decimal("24.68")
    step = next_step(learned.payment, "", NOW)
    assert isinstance(step, SendRefund)
    assert step.order.payment_id == "pi_1"
    done = learn(learned.payment, RefundFound(step.order.reference, _succeeded()), NOW)
    assert [note.type for note in done.notes] == [EventType.PAYMENT_REFUNDED]
    assert done.payment.status is PaymentStatus.PAID


def _succeeded() -> provider.Refund:
    return provider.Refund(refund_id="re_1", state=RefundState.SUCCEEDED)


def test_an_automatic_refund_that_fails_is_tried_again_a_day_later() -> None:
    payment = after(after(with_new_link(active()), LinkState.EXPIRED), LinkState.OPEN, number=2)
    payment = after(after(payment, LinkState.PAID, number=2), LinkState.PAID)
    failed = refunded(payment, RefundState.FAILED)
    assert [each.status for each in failed.refunds] == [RefundStatus.FAILED, RefundStatus.REQUESTED]
    assert next_step(failed, "", NOW) is None
    assert isinstance(next_step(failed, "", NOW + timedelta(days=1)), SendRefund)


def test_a_link_that_ran_out_before_anybody_heard_of_it_is_made_anew() -> None:
    payment = after(opened(), LinkState.EXPIRED)
    assert (payment.status, payment.links[0].status) == (PaymentStatus.PENDING, LinkStatus.CREATING)
    assert isinstance(next_step(payment, "", LATER), CreateLink)


def test_old_answers_move_nothing_back() -> None:
    processing = after(active(), LinkState.PROCESSING)
    stale = after(processing, LinkState.OPEN)
    assert stale.status is PaymentStatus.PROCESSING
    assert stale.links[0].check_at is not None, "a slow payment is looked at again"
    failed = after(processing, LinkState.FAILED)
    assert after(failed, LinkState.PROCESSING).status is PaymentStatus.FAILED
    assert learn(paid(), LinkMissing(paid().links[0].id), NOW).payment.links[0].status is LinkStatus.COMPLETED


def test_an_expiry_that_comes_after_the_payment_changes_nothing() -> None:
    payment = paid()
    assert after(payment, LinkState.EXPIRED).status is PaymentStatus.PAID
    assert after(payment, LinkState.OPEN).status is PaymentStatus.PAID


def test_a_slow_payment_is_processing_until_the_money_is_there() -> None:
    payment = after(active(), LinkState.PROCESSING)
    assert payment.status is PaymentStatus.PROCESSING
    assert after(payment, LinkState.PAID).status is PaymentStatus.PAID
    assert after(payment, LinkState.FAILED).status is PaymentStatus.FAILED


def test_while_a_payment_is_processed_only_force_makes_another_link() -> None:
    processing = after(active(), LinkState.PROCESSING)
    command = RecreatePaymentLink(session_id=SESSION)
    assert recreate(processing, command, COMMAND, NOW).reason is Reason.PAYMENT_PROCESSING
    assert with_new_link(processing, force=True).creating is not None


@pytest.mark.parametrize("payment", [None, opened("0.00"), opened("0.49")])
def test_where_nothing_is_owed_no_link_is_made(payment: Payment | None) -> None:
    ruling = recreate(payment, RecreatePaymentLink(session_id=SESSION), COMMAND, NOW)
    assert ruling.reason is Reason.NOTHING_TO_PAY


def test_what_is_paid_gets_no_new_link() -> None:
    assert recreate(paid(), RecreatePaymentLink(session_id=SESSION), COMMAND, NOW).reason is Reason.ALREADY_PAID


def test_a_link_that_is_being_made_is_the_new_link() -> None:
    ruling = recreate(opened(), RecreatePaymentLink(session_id=SESSION), COMMAND, NOW)
    assert ruling.payment is not None
    assert len(ruling.payment.links) == 1
    assert ruling.payment.links[0].command_ids == (COMMAND,)


def test_a_failed_link_can_be_made_anew_and_says_why_it_failed() -> None:
    payment = opened()
    learned = learn(payment, LinkRefused(payment.links[0].id, "AMOUNT_TOO_LARGE"), NOW)
    assert learned.payment.status is PaymentStatus.FAILED
    assert [(note.type, note.extra) for note in learned.notes] == [
        (EventType.PAYMENT_FAILED, {"failureReason": "AMOUNT_TOO_LARGE"})
    ]
    assert with_new_link(learned.payment).status is PaymentStatus.PENDING


def test_an_amount_that_the_provider_finds_too_small_is_waived() -> None:
    payment = opened("0.60", "CHF")
    learned = learn(payment, LinkRefused(payment.links[0].id, "AMOUNT_TOO_SMALL"), NOW)
    assert learned.payment.status is PaymentStatus.WAIVED
    assert next_step(learned.payment, "", NOW) is None


def test_two_refunds_that_race_for_the_remainder_do_not_both_get_it() -> None:
    first = back(paid(), "10.00")
    assert first.payment is not None
    assert back(first.payment, "10.00", OTHER).reason is Reason.AMOUNT_TOO_LARGE
    rest = back(first.payment, None, OTHER)
    assert rest.payment is not None
    assert [each.amount for each in rest.payment.refunds] == [Decimal("10.00"), Decimal("2.34")]
    assert back(rest.payment, None, UUID(int=9)).reason is Reason.ALREADY_REFUNDED


def test_a_failed_refund_frees_its_amount_even_days_after_it_succeeded() -> None:
    asked = back(paid())
    assert asked.payment is not None
    done = refunded(asked.payment, RefundState.SUCCEEDED)
    assert done.status is PaymentStatus.REFUNDED
    failed = refunded(look_again(done, Notice(refund_id="re_0"), LATER), RefundState.FAILED)
    assert (failed.status, failed.refunded_amount) == (PaymentStatus.PAID, Decimal(0))
    assert back(failed, None, OTHER).outcome is Outcome.PARKED
    assert refunded(failed, RefundState.SUCCEEDED).refunds[0].status is RefundStatus.FAILED


def test_a_partial_refund_says_so() -> None:
    asked = back(paid(), "2.34")
    assert asked.payment is not None
    payment = refunded(asked.payment, RefundState.SUCCEEDED)
    assert payment.status is PaymentStatus.PARTIALLY_REFUNDED
    assert payment_json(payment)["refundedAmount"] == "2.34"


@pytest.mark.parametrize(
    ("payment", "amount", "reason"),
    [
        (None, None, Reason.NOT_PAID),
        (active(), None, Reason.NOT_PAID),
        (paid(), "12.35", Reason.AMOUNT_TOO_LARGE),
        (after(after(opened("500", "JPY"), LinkState.OPEN), LinkState.PAID), "10.50", Reason.INVALID_AMOUNT),
    ],
)
def test_a_refund_that_cannot_be_is_refused(payment: Payment | None, amount: str | None, reason: Reason) -> None:
    assert back(payment, amount).reason is reason


def test_a_providers_event_makes_us_look_and_nothing_else() -> None:
    payment = look_again(active(), Notice(link_id="cs_1"), NOW)
    assert payment.links == (replace(active().links[0], check_at=NOW),)
    assert isinstance(next_step(payment, "", NOW), CheckLink)


def test_a_link_is_looked_at_by_itself_after_its_end_so_a_lost_webhook_does_no_harm() -> None:
    payment = active()
    assert next_step(payment, "", NOW) is None
    assert isinstance(next_step(payment, "", payment.links[0].expires_at + timedelta(minutes=2)), CheckLink)


def test_the_payment_shows_the_link_that_was_paid_else_the_newest() -> None:
    shown = payment_json(active())["link"]
    assert (shown["status"], shown["url"], shown["amount"]) == ("PENDING", "https://pay.example/1", "12.34")
    replaced = after(after(with_new_link(active()), LinkState.EXPIRED), LinkState.OPEN, number=2)
    assert payment_json(replaced)["link"]["url"] == "https://pay.example/2"
    assert payment_json(after(replaced, LinkState.PAID))["link"]["url"] == "https://pay.example/1"
    assert payment_json(opened())["link"] is None
    assert payment_json(paid())["link"]["status"] == "PAID"

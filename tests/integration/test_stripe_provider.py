"""Stripe's adapter on a stub of Stripe, beyond every provider's promises: lost answers, amounts, slow money, events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import stripe

from session_worker.payments.money import Money
from session_worker.payments.provider import (
    Declined,
    InvalidState,
    Link,
    LinkState,
    NotFound,
    Notice,
    RefundState,
    Retryable,
)
from session_worker.payments.stripe_provider import CLOCK_SKEW_S, DEADLINE_S, MOST_PAGES, PAGE_SIZE
from tests.provider_banks import RETURN_URL, StripeBank, link_order, link_ref, refund_order, refund_ref, stripe_bank
from tests.stripe_stub import WEBHOOK_SECRET

CREATE = "POST /v1/checkout/sessions"
REFUND = "POST /v1/refunds"
READ = "GET /v1/checkout/sessions/*"


@pytest.fixture
async def bank() -> AsyncIterator[StripeBank]:
    async with stripe_bank() as opened:
        yield opened


@pytest.fixture
async def brief() -> AsyncIterator[StripeBank]:
    """An adapter that waits for an answer only as long as one may take on a busy machine."""
    async with stripe_bank(deadline_s=2.5) as opened:
        yield opened


@pytest.fixture
async def impatient() -> AsyncIterator[StripeBank]:
    """An adapter that waits for an answer for a moment only: for calls that are to have none."""
    async with stripe_bank(deadline_s=0.3) as opened:
        yield opened


async def paid(bank: StripeBank, **changes: Any) -> tuple[Link, str]:
    """A link that a driver has paid, and its payment."""
    made = await bank.provider.create_link(link_order(**changes))
    bank.stub.pay(made.link_id)
    link = await bank.provider.get_link(link_ref(link_order(), made.link_id))
    assert link.payment_id is not None
    return link, link.payment_id


async def test_stripe_is_asked_for_one_payment_under_our_reference_and_key(bank: StripeBank) -> None:
    order = link_order()
    await bank.provider.create_link(order)
    (seen,) = bank.stub.requests
    asked, named = seen.parameters, {"reference": str(order.reference), "sessionId": str(order.session_id)}
    assert seen.key == order.key
    assert (asked["mode"], asked["client_reference_id"]) == ("payment", str(order.reference))
    assert asked["metadata"] == asked["payment_intent_data"]["metadata"] == named
    assert int(asked["expires_at"]) == order.expires_at.timestamp()
    assert (asked["success_url"], asked["cancel_url"]) == (RETURN_URL, RETURN_URL)
    assert asked["line_items"] == {
        "0": {
            "quantity": "1",
            "price_data": {
                "currency": "eur", "unit_amount": "1234", "product_data": {"name": "Charging session at CHARGER-001"}
            },
        }
    }  # fmt: skip


async def test_a_refund_is_asked_for_under_our_reference_and_key(bank: StripeBank) -> None:
    _, payment_id = await paid(bank)
    order = refund_order(payment_id)
    await bank.provider.refund(order)
    seen = bank.stub.requests[-1]
    named = {"reference": str(order.reference), "sessionId": str(order.session_id)}
    assert (seen.key, seen.parameters) == (
        order.key,
        {"payment_intent": payment_id, "amount": "500", "metadata": named},
    )


@pytest.mark.parametrize(
    ("money", "amount"),
    [
        (Money(1234, "EUR"), 1234),
        (Money(500, "JPY"), 500),  # none, here and there
        (Money(700, "ISK"), 70000),  # none here, two there
        (Money(5000, "UGX"), 500000),
        (Money(500000, "MGA"), 5000),  # two here, none there
    ],
)
async def test_amounts_are_in_stripes_units_on_the_wire_and_in_ours_here(
    bank: StripeBank, money: Money, amount: int
) -> None:
    link, payment_id = await paid(bank, money=money)
    assert bank.stub.charged(payment_id) == amount
    assert link.paid == money
    await bank.provider.refund(refund_order(payment_id, money=money))
    assert bank.stub.refunded(payment_id) == amount


async def test_a_fraction_that_stripe_does_not_take_is_declined_without_a_call(bank: StripeBank) -> None:
    with pytest.raises(Declined) as refusal:
        await bank.provider.create_link(link_order(money=Money(500001, "MGA")))
    assert refusal.value.reason == "PROVIDER_DECLINED"
    assert bank.stub.requests == []


async def test_a_link_that_was_made_before_its_answer_was_lost_is_found_by_our_reference(brief: StripeBank) -> None:
    order = link_order()
    held = brief.stub.hold_next(CREATE, before=False)
    with pytest.raises(Retryable):
        await brief.provider.create_link(order)
    assert held.arrived.is_set()
    link = await brief.provider.get_link(link_ref(order))
    assert link.state is LinkState.OPEN
    assert await brief.provider.create_link(order) == link
    assert len(brief.stub.sessions) == 1


async def test_a_link_that_stripe_is_still_making_is_not_found_and_not_made_twice(brief: StripeBank) -> None:
    """The first request reaches Stripe late; the second, under the same key, is told to come back."""
    order = link_order()
    held = brief.stub.hold_next(CREATE)
    with pytest.raises(Retryable):
        await brief.provider.create_link(order)
    with pytest.raises(NotFound):
        await brief.provider.get_link(link_ref(order))
    with pytest.raises(Retryable):
        await brief.provider.create_link(order)
    held.release()
    while not brief.stub.sessions:
        await asyncio.sleep(0)
    assert (await brief.provider.create_link(order)).link_id in brief.stub.sessions
    assert len(brief.stub.sessions) == 1


@pytest.mark.parametrize("before", [True, False])
async def test_a_refund_whose_answer_was_lost_is_made_once(bank: StripeBank, before: bool) -> None:
    _, payment_id = await paid(bank)
    order = refund_order(payment_id)
    bank.stub.hold_next(REFUND, before=before).drop()
    with pytest.raises(Retryable):
        await bank.provider.refund(order)
    with suppress(NotFound):
        assert (await bank.provider.get_refund(refund_ref(order))).state is RefundState.SUCCEEDED
    made = await bank.provider.refund(order)
    assert await bank.provider.get_refund(refund_ref(order)) == made
    assert bank.stub.refunded(payment_id) == 500


async def test_a_call_ends_within_its_deadline_however_slowly_stripe_answers(impatient: StripeBank) -> None:
    impatient.stub.delay_s = 60
    for call in (impatient.provider.create_link(link_order()), impatient.provider.get_link(link_ref(link_order()))):
        # Below the deadline that an adapter has unless it is given one.
        async with asyncio.timeout(DEADLINE_S - 1):
            with pytest.raises(Retryable):
                await call


async def test_all_requests_of_a_call_have_one_deadline_together(impatient: StripeBank) -> None:
    """A search of many pages, each of which comes in time."""
    fill(impatient, 3 * PAGE_SIZE, at=impatient.now())
    impatient.stub.delay_s = 0.2
    with pytest.raises(Retryable):
        await impatient.provider.get_link(link_ref(link_order()))


async def test_the_environments_proxy_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with stripe_bank() as bank:
        assert (await bank.provider.create_link(link_order())).state is LinkState.OPEN


def fill(bank: StripeBank, count: int, *, at: datetime) -> None:
    """As many sessions of others, made at that time."""
    for number in range(count):
        other = f"cs_other_{at:%s}_{number}"
        times = {"created": int(at.timestamp()), "expires_at": bank.now().timestamp() + 60}
        bank.stub.sessions[other] = {"id": other, "status": "open", "payment_intent": None, **times}


async def test_a_link_is_found_behind_the_first_page_and_not_among_those_made_long_before(bank: StripeBank) -> None:
    fill(bank, 1, at=bank.now() - timedelta(seconds=2 * CLOCK_SKEW_S))
    order = link_order()
    made = await bank.provider.create_link(order)
    fill(bank, 2 * PAGE_SIZE, at=bank.now())
    assert await bank.provider.get_link(link_ref(order)) == made
    asked = [
        seen.parameters for seen in bank.stub.requests if seen.path == "/v1/checkout/sessions" and seen.method == "GET"
    ]
    assert len(asked) == 3
    since = bank.now().timestamp() - int(asked[0]["created"]["gte"])
    assert CLOCK_SKEW_S <= since < 2 * CLOCK_SKEW_S


async def test_the_search_for_a_link_has_an_end(bank: StripeBank) -> None:
    """The order is then repeated under its key, which makes nothing twice."""
    fill(bank, MOST_PAGES * PAGE_SIZE + 1, at=bank.now())
    with pytest.raises(NotFound):
        await bank.provider.get_link(link_ref(link_order()))
    assert len(bank.stub.requests) == MOST_PAGES


@pytest.mark.parametrize(("ok", "state"), [(True, LinkState.PAID), (False, LinkState.FAILED)])
async def test_a_slow_payment_is_in_process_until_the_money_comes_or_does_not(
    bank: StripeBank, ok: bool, state: LinkState
) -> None:
    order = link_order()
    link_id = (await bank.provider.create_link(order)).link_id
    bank.stub.pay(link_id, delayed=True)
    link = await bank.provider.get_link(link_ref(order, link_id))
    assert (link.state, link.paid) == (LinkState.PROCESSING, None)
    with pytest.raises(InvalidState):
        await bank.provider.expire_link(link_ref(order, link_id))
    bank.stub.settle(link_id, ok)
    link = await bank.provider.get_link(link_ref(order, link_id))
    assert (link.state, link.paid) == (state, order.money if ok else None)
    assert bool(link.payment_id) == ok


@pytest.mark.parametrize(("intent", "state"), [("succeeded", LinkState.PAID), ("processing", LinkState.PROCESSING)])
async def test_money_counts_although_the_session_is_expired(bank: StripeBank, intent: str, state: LinkState) -> None:
    link, payment_id = await paid(bank)
    bank.stub.sessions[link.link_id] |= {"status": "expired", "payment_status": "unpaid"}
    bank.stub.intents[payment_id]["status"] = intent
    found = await bank.provider.get_link(link_ref(link_order(), link.link_id))
    assert (found.state, found.payment_id) == (state, payment_id)


async def test_a_card_that_was_declined_leaves_the_session_open_for_another(bank: StripeBank) -> None:
    link, payment_id = await paid(bank)
    bank.stub.sessions[link.link_id] |= {"status": "open", "payment_status": "unpaid"}
    bank.stub.intents[payment_id]["status"] = "requires_payment_method"
    found = await bank.provider.get_link(link_ref(link_order(), link.link_id))
    assert (found.state, found.payment_id) == (LinkState.OPEN, None)


@pytest.mark.parametrize("status", ["pending", "requires_action"])
@pytest.mark.parametrize(
    ("end", "cause", "state", "reason"),
    [
        ("succeeded", None, RefundState.SUCCEEDED, None),
        ("failed", "expired_or_canceled_card", RefundState.FAILED, "EXPIRED_OR_CANCELED_CARD"),
        ("failed", None, RefundState.FAILED, "FAILED"),
        ("canceled", None, RefundState.FAILED, "CANCELED"),
    ],
)
async def test_a_refund_is_pending_until_it_comes_through_or_does_not(
    bank: StripeBank, status: str, end: str, cause: str | None, state: RefundState, reason: str | None
) -> None:
    _, payment_id = await paid(bank)
    bank.stub.makes_refunds = status
    order = refund_order(payment_id)
    made = await bank.provider.refund(order)
    assert made.state is RefundState.PENDING
    bank.stub.end_refund(made.refund_id, end, cause)
    for found in (await bank.provider.get_refund(refund_ref(order)), await bank.provider.refund(order)):
        assert (found.refund_id, found.state, found.reason) == (made.refund_id, state, reason)


async def test_a_refund_that_succeeded_may_fail_days_later_and_its_money_can_be_sent_again(bank: StripeBank) -> None:
    _, payment_id = await paid(bank)
    order = refund_order(payment_id, money=Money(1234, "EUR"))
    made = await bank.provider.refund(order)
    bank.stub.fail_refund(made.refund_id)
    found = await bank.provider.get_refund(refund_ref(order, made.refund_id))
    assert (found.state, found.reason) == (RefundState.FAILED, "LOST_OR_STOLEN_CARD")
    await bank.provider.refund(refund_order(payment_id, money=Money(1234, "EUR")))
    assert bank.stub.refunded(payment_id) == 1234


async def test_every_event_names_what_it_is_about(bank: StripeBank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    bank.stub.pay(made.link_id, delayed=True)
    bank.stub.settle(made.link_id, True)
    payment_id = bank.stub.sessions[made.link_id]["payment_intent"]
    back = refund_order(payment_id)
    refund_id = (await bank.provider.refund(back)).refund_id
    bank.stub.fail_refund(refund_id)
    of_link = Notice(link_id=made.link_id, payment_id=payment_id, reference=order.reference)
    of_payment = Notice(payment_id=payment_id, reference=order.reference)
    of_refund = Notice(refund_id=refund_id, payment_id=payment_id, reference=back.reference)
    told = [(event["type"], await bank.provider.parse_webhook(event)) for event in bank.stub.events()]
    assert told == [
        ("checkout.session.completed", of_link),
        ("payment_intent.processing", of_payment),
        ("checkout.session.async_payment_succeeded", of_link),
        ("payment_intent.succeeded", of_payment),
        ("refund.created", of_refund),
        ("charge.refunded", of_payment),
        ("refund.updated", of_refund),
        ("charge.refund.updated", of_refund),
        ("refund.failed", of_refund),
    ]


REFERENCE = "0195f3a0-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("event", "notice"),
    [
        (  # trimmed: the reference of a session without metadata
            {"type": "checkout.session.expired", "data": {"object": {"id": "cs_1", "client_reference_id": REFERENCE}}},
            Notice(link_id="cs_1", reference=UUID(REFERENCE)),
        ),
        (  # given whole
            {"type": "refund.updated", "data": {"object": {"id": "re_1", "payment_intent": {"id": "pi_1"}}}},
            Notice(refund_id="re_1", payment_id="pi_1"),
        ),
        (  # another product's, in the same account
            {"type": "checkout.session.expired", "data": {"object": {"id": "cs_2", "client_reference_id": "cart 7"}}},
            Notice(link_id="cs_2"),
        ),
        (
            {"type": "payment_intent.created", "data": {"object": {"id": "pi_2", "metadata": {"reference": 7}}}},
            Notice(payment_id="pi_2"),
        ),
        ({"type": "charge.refunded", "data": {"object": {"id": "ch_1", "payment_intent": None}}}, None),
        ({"type": "charge.succeeded", "data": {"object": {"id": "ch_1", "payment_intent": "pi_1"}}}, None),
        ({"type": "checkout.session.completed", "data": {"object": {"id": 7}}}, None),
        ({"type": "checkout.session.completed", "data": None}, None),
        ({"type": 7, "data": {"object": {"id": "cs_1"}}}, None),
    ],
)
async def test_an_event_is_read_as_far_as_it_goes(
    bank: StripeBank, event: dict[str, Any], notice: Notice | None
) -> None:
    assert await bank.provider.parse_webhook(event) == notice


async def test_the_stub_signs_as_stripe_does(bank: StripeBank) -> None:
    """Otherwise its webhooks would prove nothing."""
    bank.stub.pay((await bank.provider.create_link(link_order())).link_id)
    body, signature = bank.stub.signed(bank.stub.events()[0])
    event = stripe.Webhook.construct_event(body, signature, WEBHOOK_SECRET)
    assert event.type == "checkout.session.completed"
    body, old = bank.stub.signed(bank.stub.events()[0], at=1)
    for bad_body, bad in ((body, old), (body + b" ", signature)):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(bad_body, bad, WEBHOOK_SECRET)


async def test_a_failure_that_stripe_keeps_under_a_key_needs_another_key(bank: StripeBank) -> None:
    """Stripe repeats it for a day: as if the key stood for another order, which the caller can get out of."""
    error = {"error": {"type": "api_error"}}
    bank.stub.answer_next(CREATE, 500, error)
    with pytest.raises(Retryable):
        await bank.provider.create_link(link_order())
    bank.stub.answer_next(CREATE, 500, error, {"Idempotent-Replayed": "true"})
    with pytest.raises(InvalidState):
        await bank.provider.create_link(link_order())


async def test_a_long_description_is_cut_to_what_stripe_takes(bank: StripeBank) -> None:
    await bank.provider.create_link(link_order(description="Charging session at " + "C" * 255))
    line = bank.stub.requests[-1].parameters["line_items"]["0"]
    assert len(line["price_data"]["product_data"]["name"]) == 250

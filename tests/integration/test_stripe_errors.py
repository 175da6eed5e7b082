"""What Stripe's adapter makes of Stripe's errors: by status, type, code and parameter, not by the sentence."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from session_worker.payments.provider import (
    Declined,
    InvalidState,
    LinkRef,
    Misconfigured,
    NotFound,
    ProviderError,
    Retryable,
)
from tests.provider_banks import StripeBank, link_order, link_ref, refund_order, stripe_bank

CREATE = "POST /v1/checkout/sessions"
REFUND = "POST /v1/refunds"
READ = "GET /v1/checkout/sessions/*"


@pytest.fixture
async def bank() -> AsyncIterator[StripeBank]:
    async with stripe_bank() as opened:
        yield opened


async def test_a_stripe_that_is_down_is_retryable_and_asked_once_a_call(bank: StripeBank) -> None:
    """Repetition is the caller's, who stored the key before."""
    order = link_order()
    bank.stub.down()
    with pytest.raises(Retryable):
        await bank.provider.create_link(order)
    bank.stub.up()
    bank.stub.answer_next(CREATE, 500, {"error": {"type": "api_error"}})
    with pytest.raises(Retryable):
        await bank.provider.create_link(order)
    assert len(bank.stub.requests) == 1


def refusal(kind: str = "invalid_request_error", **fields: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": "amount_too_small resource_missing", **fields}}


# Status and body, and what they mean; the sentence in each would mislead whoever read it.
ERRORS: list[tuple[int, dict[str, Any], type[ProviderError], str | None]] = [
    (400, refusal(code="amount_too_small"), Declined, "AMOUNT_TOO_SMALL"),
    (400, refusal(code="amount_too_large"), Declined, "AMOUNT_TOO_LARGE"),
    (400, refusal(code="parameter_unknown", param="mode"), Declined, "PROVIDER_DECLINED"),
    (400, refusal(), Declined, "PROVIDER_DECLINED"),
    (402, refusal("card_error", code="card_declined"), Declined, "PROVIDER_DECLINED"),
    (400, refusal("idempotency_error"), InvalidState, None),
    (400, refusal(param="expires_at"), InvalidState, None),
    (400, refusal(code="url_invalid", param="success_url"), Misconfigured, None),
    (400, refusal(code="livemode_mismatch"), Misconfigured, None),
    (401, refusal(), Misconfigured, None),
    (401, refusal(code="api_key_expired"), Misconfigured, None),
    (403, refusal(), Misconfigured, None),
    (404, refusal(code="resource_missing"), NotFound, None),
    (409, refusal("idempotency_error", code="idempotency_key_in_use"), Retryable, None),
    (429, refusal(code="rate_limit"), Retryable, None),
    (429, refusal(code="lock_timeout"), Retryable, None),
    (500, refusal("api_error"), Retryable, None),
    (503, refusal("api_error"), Retryable, None),
]


@pytest.mark.parametrize(("status", "body", "expected", "reason"), ERRORS)
async def test_an_error_is_what_its_status_type_code_and_parameter_say(
    bank: StripeBank, status: int, body: dict[str, Any], expected: type[ProviderError], reason: str | None
) -> None:
    bank.stub.answer_next(CREATE, status, body)
    with pytest.raises(expected) as raised:
        await bank.provider.create_link(link_order())
    assert type(raised.value) is expected
    assert getattr(raised.value, "reason", None) == reason
    assert "amount_too_small resource_missing" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (refusal(code="charge_already_refunded"), InvalidState),
        (refusal(param="amount"), InvalidState),
        (refusal(code="amount_too_large", param="amount"), InvalidState),
        (refusal(code="parameter_invalid_integer", param="amount"), Declined),
        (refusal(code="charge_not_refundable"), Declined),
    ],
)
async def test_a_refund_of_more_than_is_left_is_an_invalid_state_and_a_bad_one_is_declined(
    bank: StripeBank, body: dict[str, Any], expected: type[ProviderError]
) -> None:
    bank.stub.answer_next(REFUND, 400, body)
    with pytest.raises(expected):
        await bank.provider.refund(refund_order("pi_1"))


@pytest.mark.parametrize(
    ("header", "wish"),
    [("7", 7.0), ("0.5", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("inf", None), (None, None)],
)
async def test_stripes_wish_when_to_come_back_is_passed_on(
    bank: StripeBank, header: str | None, wish: float | None
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    for status in (429, 503):
        bank.stub.answer_next(CREATE, status, refusal(), headers)
        with pytest.raises(Retryable) as raised:
            await bank.provider.create_link(link_order())
        assert raised.value.retry_after_s == wish


NONSENSE = [b"", b"<html>", b"null", b"[]", b"7", b'"ok"', b"{}", b'{"error": null}', b'{"error": [1]}', b"\xff\xfe"]


@pytest.mark.parametrize("body", [*NONSENSE, json.dumps({"id": "cs_1", "object": "checkout.session"}).encode()])
async def test_an_answer_that_cannot_be_read_is_retryable(bank: StripeBank, body: bytes) -> None:
    """A proxy's page, say: whether Stripe acted is not known."""
    ref = LinkRef(reference=uuid4(), link_id="cs_1", asked_at=datetime.now(UTC))
    for status in (200, 502):
        for pattern, call in ((CREATE, bank.provider.create_link(link_order())), (READ, bank.provider.get_link(ref))):
            bank.stub.answer_next(pattern, status, body)
            with pytest.raises(Retryable):
                await call


async def test_a_session_in_a_state_that_nobody_knows_is_retryable(bank: StripeBank) -> None:
    link = await bank.provider.create_link(link_order())
    bank.stub.sessions[link.link_id]["status"] = "reopened"
    with pytest.raises(Retryable):
        await bank.provider.get_link(link_ref(link_order(), link.link_id))


async def test_a_key_that_stripe_refuses_is_the_operators_business() -> None:
    async with stripe_bank(api_key="sk_test_of_somebody_else") as bank:
        with pytest.raises(Misconfigured):
            await bank.provider.create_link(link_order())


async def test_a_return_url_that_stripe_refuses_is_the_operators_business() -> None:
    async with stripe_bank(return_url="voltline.example") as bank:
        with pytest.raises(Misconfigured):
            await bank.provider.create_link(link_order())


async def test_an_expiry_that_came_too_near_is_no_refusal_of_the_debt(bank: StripeBank) -> None:
    """The order waited for Stripe to come up; asked for anew, it can be had."""
    order = link_order(expires_at=bank.now() + timedelta(minutes=29))
    with pytest.raises(InvalidState):
        await bank.provider.create_link(order)
    await bank.provider.create_link(replace(order, key="another", expires_at=bank.now() + timedelta(minutes=31)))
    assert len(bank.stub.sessions) == 1


async def test_a_refusal_to_expire_an_open_session_is_no_invalid_state(bank: StripeBank) -> None:
    link = await bank.provider.create_link(link_order())
    bank.stub.answer_next("POST /v1/checkout/sessions/*/expire", 400, refusal())
    with pytest.raises(Declined):
        await bank.provider.expire_link(link_ref(link_order(), link.link_id))

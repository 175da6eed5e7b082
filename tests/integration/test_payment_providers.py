"""What every payment provider promises (session_worker/payments/provider.py): the sandbox, and Stripe's adapter."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from ops.local_stack.processes import Name
from session_worker.payments.money import Money
from session_worker.payments.provider import (
    Declined,
    InvalidState,
    Link,
    LinkState,
    NotFound,
    RefundState,
    Retryable,
)
from tests.provider_banks import (
    Bank,
    SandboxBank,
    link_order,
    link_ref,
    refund_order,
    refund_ref,
    sandbox_bank,
    stripe_bank,
)
from tests.servers import House, with_logins


@pytest.fixture(scope="module")
def worker_url(house: House) -> str:
    """The database as the session worker may use it, with no right more."""
    return with_logins(house)[Name.SESSION_WORKER]["DATABASE_URL"]


@pytest.fixture(params=["sandbox", "stripe"])
async def bank(request: pytest.FixtureRequest) -> AsyncIterator[Bank]:
    if request.param == "stripe":
        async with stripe_bank() as stripe:
            yield stripe
    else:
        async with sandbox_bank(request.getfixturevalue("worker_url")) as sandbox:
            yield sandbox


@pytest.fixture
async def sandbox(worker_url: str) -> AsyncIterator[SandboxBank]:
    async with sandbox_bank(worker_url) as opened:
        yield opened


async def paid(bank: Bank) -> tuple[Link, str]:
    """A link of 12.34 EUR that a driver has paid, and its payment."""
    order = link_order()
    made = await bank.provider.create_link(order)
    await bank.pay(made)
    link = await bank.provider.get_link(link_ref(order, made.link_id))
    assert link.payment_id is not None
    return link, link.payment_id


async def test_a_new_link_is_open_and_has_a_page(bank: Bank) -> None:
    order = link_order()
    link = await bank.provider.create_link(order)
    assert (link.state, link.expires_at, link.payment_id, link.paid) == (LinkState.OPEN, order.expires_at, None, None)
    assert link.url is not None
    assert link.link_id in link.url


async def test_a_link_is_found_by_its_id_and_by_our_reference(bank: Bank) -> None:
    """A lost answer is no lost link."""
    order = link_order()
    await bank.provider.create_link(link_order())
    made = await bank.provider.create_link(order)
    await bank.provider.create_link(link_order())
    assert await bank.provider.get_link(link_ref(order, made.link_id)) == made
    assert await bank.provider.get_link(link_ref(order)) == made


async def test_a_link_that_is_not_there_is_not_found(bank: Bank) -> None:
    order = link_order()
    for ref in (link_ref(order), link_ref(order, str(uuid4()))):
        with pytest.raises(NotFound):
            await bank.provider.get_link(ref)
        with pytest.raises(NotFound):
            await bank.provider.expire_link(ref)


async def test_one_key_makes_one_link_however_often_it_is_asked(bank: Bank) -> None:
    order, before = link_order(), await bank.link_count()
    made = [await bank.provider.create_link(order) for _ in range(3)]
    assert made[0] == made[1] == made[2]
    assert await bank.link_count() == before + 1


async def test_one_key_makes_one_link_when_it_is_asked_at_the_same_time(bank: Bank) -> None:
    """Whoever comes second gets the link, or is told to come back."""
    order, before = link_order(), await bank.link_count()
    asked = (bank.provider.create_link(order) for _ in range(4))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, Link | Retryable) for answer in answers)
    link = await bank.provider.create_link(order)
    assert {answer.link_id for answer in answers if isinstance(answer, Link)} == {link.link_id}
    assert await bank.link_count() == before + 1


async def test_a_repeated_order_returns_its_link_as_it_is_now(bank: Bank) -> None:
    order = link_order()
    await bank.pay(await bank.provider.create_link(order))
    repeated = await bank.provider.create_link(order)
    assert (repeated.state, repeated.paid) == (LinkState.PAID, order.money)


async def test_the_key_of_another_order_makes_nothing(bank: Bank) -> None:
    order = link_order()
    await bank.provider.create_link(order)
    before = await bank.link_count()
    for other in (replace(order, money=Money(999, "EUR")), link_order(key=order.key)):
        with pytest.raises(InvalidState):
            await bank.provider.create_link(other)
    assert await bank.link_count() == before


async def test_an_amount_below_the_minimum_is_declined(bank: Bank) -> None:
    order, before = link_order(money=Money(49, "EUR")), await bank.link_count()
    for _ in range(2):
        with pytest.raises(Declined) as refusal:
            await bank.provider.create_link(order)
        assert refusal.value.reason == "AMOUNT_TOO_SMALL"
    assert await bank.link_count() == before


async def test_an_amount_above_the_maximum_is_declined(bank: Bank) -> None:
    with pytest.raises(Declined) as refusal:
        await bank.provider.create_link(link_order(money=Money(bank.provider.capabilities.maximum_minor + 1, "EUR")))
    assert refusal.value.reason == "AMOUNT_TOO_LARGE"


@pytest.mark.parametrize("currency", ["EUR", "GBP", "HUF", "JPY"])
async def test_the_limits_that_it_names_are_themselves_taken(bank: Bank, currency: str) -> None:
    limits = bank.provider.capabilities
    for minor in (limits.minimum_minor[currency], limits.maximum_minor):
        link = await bank.provider.create_link(link_order(money=Money(minor, currency)))
        assert link.state is LinkState.OPEN


async def test_a_link_cannot_be_made_to_end_in_the_past(bank: Bank) -> None:
    order, before = link_order(), await bank.link_count()
    bank.pass_time(timedelta(hours=2))
    with pytest.raises(InvalidState):
        await bank.provider.create_link(order)
    assert await bank.link_count() == before


async def test_an_order_is_repeated_after_its_expiry_with_the_same_answer(bank: Bank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    bank.pass_time(timedelta(hours=2))
    repeated = await bank.provider.create_link(order)
    assert (repeated.link_id, repeated.state) == (made.link_id, LinkState.EXPIRED)


async def test_nobody_can_pay_on_an_expired_link(bank: Bank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    assert (await bank.provider.expire_link(link_ref(order, made.link_id))).state is LinkState.EXPIRED
    await bank.pay(made)
    link = await bank.provider.get_link(link_ref(order, made.link_id))
    assert (link.state, link.payment_id, link.paid) == (LinkState.EXPIRED, None, None)


async def test_a_link_is_expired_by_our_reference_too(bank: Bank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    ended = await bank.provider.expire_link(link_ref(order))
    assert (ended.link_id, ended.state) == (made.link_id, LinkState.EXPIRED)


async def test_only_an_open_link_can_be_expired(bank: Bank) -> None:
    """Whoever is told so reads it again: the driver may have paid meanwhile."""
    expired, timed_out = link_order(), link_order()
    await bank.provider.create_link(expired)
    await bank.provider.expire_link(link_ref(expired))
    await bank.provider.create_link(timed_out)
    link, _ = await paid(bank)
    for ref in (link_ref(expired), link_ref(link_order(), link.link_id)):
        with pytest.raises(InvalidState):
            await bank.provider.expire_link(ref)
    bank.pass_time(timedelta(hours=2))
    with pytest.raises(InvalidState):
        await bank.provider.expire_link(link_ref(timed_out))
    assert (await bank.provider.get_link(link_ref(link_order(), link.link_id))).state is LinkState.PAID


async def test_a_link_past_its_expiry_is_expired_and_takes_no_payment(bank: Bank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    bank.pass_time(timedelta(hours=1, seconds=1))
    await bank.pay(made)
    assert (await bank.provider.get_link(link_ref(order, made.link_id))).state is LinkState.EXPIRED


@pytest.mark.parametrize("money", [Money(1234, "EUR"), Money(500, "JPY"), Money(17500, "HUF"), Money(700, "ISK")])
async def test_a_paid_link_tells_its_payment_and_the_money_in_our_units(bank: Bank, money: Money) -> None:
    order = link_order(money=money)
    made = await bank.provider.create_link(order)
    await bank.pay(made)
    link = await bank.provider.get_link(link_ref(order, made.link_id))
    assert (link.state, link.paid) == (LinkState.PAID, money)
    assert link.payment_id


async def test_a_link_is_paid_once(bank: Bank) -> None:
    link, payment_id = await paid(bank)
    await bank.pay(link)
    again = await bank.provider.get_link(link_ref(link_order(), link.link_id))
    assert (again.payment_id, again.paid) == (payment_id, link.paid)


async def test_the_webhook_of_a_payment_names_the_link(bank: Bank) -> None:
    order = link_order()
    made = await bank.provider.create_link(order)
    notice = await bank.pay(made)
    assert notice is not None
    assert (notice.link_id, notice.reference) == (made.link_id, order.reference)


@pytest.mark.parametrize(
    "event", [{}, {"type": "customer.created", "data": {"object": {"id": "cus_1"}}}, {"type": None, "linkId": 1}]
)
async def test_a_webhook_about_something_else_is_about_nothing_of_ours(bank: Bank, event: dict[str, object]) -> None:
    assert await bank.provider.parse_webhook(event) is None


async def test_a_payment_is_given_back_in_parts_until_nothing_is_left(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    for minor in (1000, 200, 34):
        refund = await bank.provider.refund(refund_order(payment_id, money=Money(minor, "EUR")))
        assert (refund.state, refund.reason) == (RefundState.SUCCEEDED, None)
    with pytest.raises(InvalidState):
        await bank.provider.refund(refund_order(payment_id, money=Money(1, "EUR")))
    assert await bank.refunded(payment_id) == 1234


async def test_more_than_is_left_is_not_given_back(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    await bank.provider.refund(refund_order(payment_id, money=Money(1000, "EUR")))
    with pytest.raises(InvalidState):
        await bank.provider.refund(refund_order(payment_id, money=Money(235, "EUR")))
    assert await bank.refunded(payment_id) == 1000


async def test_refunds_at_the_same_time_are_together_never_more_than_was_paid(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    asked = (bank.provider.refund(refund_order(payment_id)) for _ in range(4))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["InvalidState", "InvalidState", "Refund", "Refund"]
    assert await bank.refunded(payment_id) == 1000


async def test_one_key_makes_one_refund(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    order, before = refund_order(payment_id, money=Money(1234, "EUR")), await bank.refund_count()
    made = [await bank.provider.refund(order) for _ in range(3)]
    assert made[0] == made[1] == made[2]
    assert await bank.refund_count() == before + 1


async def test_the_key_of_another_refund_gives_nothing_back(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    order = refund_order(payment_id)
    await bank.provider.refund(order)
    with pytest.raises(InvalidState):
        await bank.provider.refund(replace(order, money=Money(1, "EUR")))
    assert await bank.refunded(payment_id) == 500


async def test_no_refund_of_nothing(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    with pytest.raises(Declined):
        await bank.provider.refund(refund_order(payment_id, money=Money(0, "EUR")))
    assert await bank.refunded(payment_id) == 0


async def test_a_payment_that_is_not_there_cannot_be_given_back(bank: Bank) -> None:
    with pytest.raises(NotFound):
        await bank.provider.refund(refund_order(f"pay_{uuid4()}"))


async def test_a_refund_is_found_by_its_id_and_by_our_reference(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    order = refund_order(payment_id)
    await bank.provider.refund(refund_order(payment_id, money=Money(100, "EUR")))
    made = await bank.provider.refund(order)
    await bank.provider.refund(refund_order(payment_id, money=Money(100, "EUR")))
    assert await bank.provider.get_refund(refund_ref(order, made.refund_id)) == made
    assert await bank.provider.get_refund(refund_ref(order)) == made


async def test_a_refund_that_is_not_there_is_not_found(bank: Bank) -> None:
    _, payment_id = await paid(bank)
    _, of_another = await paid(bank)
    other = refund_order(of_another)
    await bank.provider.refund(other)
    wanted = refund_order(payment_id)
    for ref in (refund_ref(wanted), refund_ref(wanted, "re_nobody"), refund_ref(replace(other, payment_id=payment_id))):
        with pytest.raises(NotFound):
            await bank.provider.get_refund(ref)


async def test_the_sandbox_shows_a_link_on_the_gateways_page(sandbox: SandboxBank) -> None:
    order = link_order()
    link = await sandbox.provider.create_link(order)
    assert link.link_id == str(order.reference)
    assert link.url == f"https://voltline.example/sandbox/pay/{order.reference}"


async def test_a_link_that_was_declined_in_the_sandbox_has_failed_and_takes_no_other_payment(
    sandbox: SandboxBank,
) -> None:
    order = link_order()
    link = await sandbox.provider.create_link(order)
    notice = await sandbox.click("link.declined", link.link_id)
    assert notice is not None
    assert notice.reference == order.reference
    await sandbox.click("link.paid", link.link_id)
    assert (await sandbox.provider.get_link(link_ref(order))).state is LinkState.FAILED


async def test_a_link_that_was_paid_in_the_sandbox_cannot_be_declined_after_it(sandbox: SandboxBank) -> None:
    link, payment_id = await paid(sandbox)
    await sandbox.click("link.declined", link.link_id)
    again = await sandbox.provider.get_link(link_ref(link_order(), link.link_id))
    assert (again.state, again.payment_id) == (LinkState.PAID, payment_id)
    assert payment_id == f"pay_{link.link_id}"


@pytest.mark.parametrize("link_id", ["nobody", "00000000-0000-4000-8000-000000000000", "a\0b", "'; DROP"])
async def test_a_click_on_a_link_that_is_not_there_is_about_nothing(sandbox: SandboxBank, link_id: str) -> None:
    assert await sandbox.click("link.paid", link_id) is None


async def test_an_unpaid_link_has_nothing_to_give_back_in_the_sandbox(sandbox: SandboxBank) -> None:
    link = await sandbox.provider.create_link(link_order())
    with pytest.raises(InvalidState):
        await sandbox.provider.refund(refund_order(f"pay_{link.link_id}"))


async def test_a_links_id_is_no_payments_id_in_the_sandbox(sandbox: SandboxBank) -> None:
    link, _ = await paid(sandbox)
    with pytest.raises(NotFound):
        await sandbox.provider.refund(refund_order(link.link_id))


async def test_a_refund_in_another_currency_is_declined_in_the_sandbox(sandbox: SandboxBank) -> None:
    _, payment_id = await paid(sandbox)
    with pytest.raises(Declined):
        await sandbox.provider.refund(refund_order(payment_id, money=Money(500, "SEK")))

"""Payments with Stripe, as far as a stub keeps its rules: signed webhooks over HTTP, lost answers, kills, outages."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from ops.local_stack.processes import Process, Processes, says_ready
from tests.proxy import Proxy
from tests.servers import House
from tests.stripe_stub import API_KEY, WEBHOOK_SECRET, StripeStub
from tests.wire import Wire, eventually, open_wire

CREATE = "POST /v1/checkout/sessions"
EXPIRE = "POST /v1/checkout/sessions/*/expire"
REFUND = "POST /v1/refunds"


# One stub, gateway and worker for all: each test has a session of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
fixture = pytest_asyncio.fixture(scope="module", loop_scope="module")


@fixture
async def stripe() -> AsyncIterator[StripeStub]:
    async with StripeStub() as stub:
        yield stub


@fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        yield opened


@fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(house.database_url)
    yield connection
    await connection.close()


class Shop:
    """A gateway and a session worker on one stub; the worker can be killed and replaced."""

    def __init__(self, processes: Processes, stripe: StripeStub, wire: Wire, database: asyncpg.Connection) -> None:
        self.processes, self.stripe, self.wire, self.database = processes, stripe, wire, database
        self.settings: dict[str, Any] = {
            "PAYMENT_PROVIDER": "stripe",
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_API_BASE": stripe.url,
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        self.worker: Process
        self.gateway: Process

    async def open(self) -> None:
        self.worker = self.processes.launch("session_worker", **self.settings)
        self.gateway = self.processes.launch("gateway", **self.settings)
        await self.worker.ready()
        await self.gateway.ready()

    async def replace_worker(self) -> None:
        """Kill the worker and start another, which need not wait out the lease of the dead one."""
        await self.worker.kill()
        await self.database.execute('UPDATE payments SET "leasedUntil" = NULL')
        self.worker = await self.processes.start("session_worker", **self.settings)

    async def close(self) -> None:
        await self.worker.stop()
        await self.gateway.stop()

    async def stop_session(self, cost: str = "12.34") -> str:
        session_id = await self.wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
        await self.wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": cost})
        await self.told(str(session_id), "session.completed")
        return str(session_id)

    async def with_link(self) -> tuple[str, str]:
        """A completed session and its Checkout Session."""
        session_id = await self.stop_session()
        await self.told(session_id, "payment.link_created")
        return session_id, self.checkouts(session_id)[-1]

    def checkouts(self, session_id: str) -> list[str]:
        """The Checkout Sessions of a session, oldest first."""
        return [name for name, each in self.stripe.sessions.items() if each["metadata"]["sessionId"] == session_id]

    def refunds(self, session_id: str) -> list[dict[str, Any]]:
        """The refunds of a session, oldest first."""
        return [each for each in self.stripe.refunds.values() if each["metadata"]["sessionId"] == session_id]

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """What Stripe has to tell of a session."""
        return [
            each
            for each in self.stripe.events()
            if (each["data"]["object"].get("metadata") or {}).get("sessionId") == session_id
        ]

    async def told(self, session_id: str, kind: str, *, count: int = 1) -> dict[str, Any]:
        """The last of so many events of a type about a session."""
        events = await self.wire.events(
            lambda data: data["sessionId"] == session_id and data["type"] == kind, count=count, timeout_s=30
        )
        return events[count - 1]

    async def deliver(self, *events: dict[str, Any], expected: int = 200, gateway: Process | None = None) -> None:
        """Send webhooks as Stripe does."""
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for event in events:
                body, signature = self.stripe.signed(event)
                url = f"{(gateway or self.gateway).url}/api/v1/payment/webhooks/stripe"
                headers = {"stripe-signature": signature, "content-type": "application/json"}
                answer = await client.post(url, content=body, headers=headers)
                assert answer.status_code == expected, answer.text

    async def payment(self, session_id: str) -> dict[str, Any]:
        text = await self.database.fetchval("SELECT payment FROM charging_sessions WHERE id = $1", UUID(session_id))
        payment: dict[str, Any] = json.loads(text)
        return payment


@fixture
async def shop(
    processes: Processes, stripe: StripeStub, wire: Wire, database: asyncpg.Connection
) -> AsyncIterator[Shop]:
    opened = Shop(processes, stripe, wire, database)
    await opened.open()
    yield opened
    await opened.close()


async def test_stop_pay_and_refund_with_events_that_come_twice_and_in_the_wrong_order(shop: Shop) -> None:
    session_id, checkout = await shop.with_link()
    assert shop.stripe.pay(checkout)
    events = shop.events(session_id)
    await shop.deliver(*reversed(events), *events)
    await shop.told(session_id, "payment.paid")
    await shop.wire.publish("payment.refund.v1", {"sessionId": session_id})
    event = await shop.told(session_id, "payment.refunded")
    assert event["payment"]["status"] == "REFUNDED"
    assert event["payment"]["refundedAmount"] == "12.34"
    # Two days later the bank sends the money back.
    (made,) = shop.refunds(session_id)
    shop.stripe.fail_refund(made["id"])
    await shop.deliver(shop.events(session_id)[-1])
    failed = await shop.told(session_id, "payment.refund_failed")
    assert (failed["payment"]["status"], failed["payment"]["refundedAmount"]) == ("PAID", "0.00")
    assert failed["refund"]["failureReason"] == "LOST_OR_STOLEN_CARD"
    # An expiry that comes after all that changes nothing: the next event is the refund's, with the next number.
    await shop.deliver({**events[0], "id": "evt_late", "type": "checkout.session.expired"})
    await shop.wire.publish("payment.refund.v1", {"sessionId": session_id, "amount": "2.34"})
    event = await shop.told(session_id, "payment.refunded", count=2)
    assert event["payment"]["status"] == "PARTIALLY_REFUNDED"
    assert event["sequence"] == failed["sequence"] + 1


async def test_a_session_completes_while_the_provider_is_down_and_its_link_follows(shop: Shop) -> None:
    shop.stripe.down()
    session_id = await shop.stop_session()
    assert (await shop.payment(session_id))["status"] == "PENDING"
    shop.stripe.up()
    await shop.told(session_id, "payment.link_created")


async def test_a_link_whose_answer_was_lost_is_found_and_not_made_twice(shop: Shop) -> None:
    hold = shop.stripe.hold_next(CREATE, before=False)
    session_id = await shop.stop_session()
    await hold.arrived.wait()
    hold.drop()
    await shop.told(session_id, "payment.link_created")
    assert len(shop.checkouts(session_id)) == 1


@pytest.mark.parametrize("before", [True, False], ids=["between key and call", "between call and commit"])
async def test_a_worker_killed_while_it_makes_a_link_leaves_exactly_one(shop: Shop, before: bool) -> None:
    hold = shop.stripe.hold_next(CREATE, before=before)
    session_id = await shop.stop_session()
    await hold.arrived.wait()
    key = await shop.database.fetchval(
        'SELECT "idempotencyKey" FROM payment_links WHERE "sessionId" = $1 AND "askedAt" IS NOT NULL', UUID(session_id)
    )
    assert key == shop.stripe.requests[-1].key, "the key was not stored before the call"
    await shop.replace_worker()
    hold.drop()
    await shop.told(session_id, "payment.link_created")
    assert len(shop.checkouts(session_id)) == 1


@pytest.mark.parametrize("before", [True, False], ids=["between key and call", "between call and commit"])
async def test_a_worker_killed_while_it_refunds_gives_the_money_back_once(shop: Shop, before: bool) -> None:
    session_id, checkout = await shop.with_link()
    shop.stripe.pay(checkout)
    await shop.deliver(*shop.events(session_id))
    await shop.told(session_id, "payment.paid")
    hold = shop.stripe.hold_next(REFUND, before=before)
    await shop.wire.publish("payment.refund.v1", {"sessionId": session_id, "amount": "5.00"})
    await hold.arrived.wait()
    await shop.replace_worker()
    hold.drop()
    await shop.told(session_id, "payment.refunded")
    assert [refund["amount"] for refund in shop.refunds(session_id)] == [500]


async def test_a_replaced_link_that_was_paid_at_the_last_moment_settles_the_debt(shop: Shop) -> None:
    """Paid before it could be ended: the new link is refused, and nobody can pay again."""
    session_id, checkout = await shop.with_link()
    shop.stripe.pay(checkout)  # its webhook is on its way
    message_id = await shop.wire.publish("payment.recreate_link.v1", {"sessionId": session_id})
    await shop.told(session_id, "payment.paid")
    refusal = await shop.wire.event(lambda data: data.get("messageId") == message_id)
    assert refusal["reason"] == "ALREADY_PAID"
    assert len(shop.checkouts(session_id)) == 1


async def test_a_payment_on_a_replaced_link_is_taken_and_a_second_one_goes_back(shop: Shop) -> None:
    """A slow payment on the first link, a forced second link that is paid as well: one is kept, one is refunded."""
    session_id, first = await shop.with_link()
    shop.stripe.pay(first, delayed=True)
    await shop.deliver(*shop.events(session_id))
    await eventually(lambda: _has_status(shop, session_id, "PROCESSING"))
    await shop.wire.publish("payment.recreate_link.v1", {"sessionId": session_id, "force": True})
    await shop.told(session_id, "payment.link_created", count=2)
    second = shop.checkouts(session_id)[-1]
    shop.stripe.settle(first, ok=True)  # the debt is open: taken, though the link was replaced
    assert shop.stripe.pay(second)  # and the driver has paid the other one meanwhile
    await shop.deliver(*shop.events(session_id))
    await shop.told(session_id, "payment.paid")
    back = await shop.told(session_id, "payment.refunded")
    assert (back["refund"]["isAutomatic"], back["payment"]["status"]) == (True, "PAID")
    intents = [shop.stripe.sessions[each]["payment_intent"] for each in (first, second)]
    kept = [shop.stripe.charged(intent) - shop.stripe.refunded(intent) for intent in intents]
    assert sorted(kept) == [0, 1234]


async def _has_status(shop: Shop, session_id: str, status: str) -> bool:
    return bool((await shop.payment(session_id))["status"] == status)


async def test_a_webhook_that_finds_the_broker_down_is_not_taken_and_comes_again(shop: Shop, house: House) -> None:
    """503 and nothing acknowledged; the same event again, and the payment is taken, once."""
    session_id, checkout = await shop.with_link()
    shop.stripe.pay(checkout)
    event = shop.events(session_id)[0]
    async with Proxy(house.amqp_url) as broker:
        gateway = await shop.processes.start("gateway", **shop.settings, AMQP_URL=broker.url)
        broker.cut()
        await shop.deliver(event, expected=503, gateway=gateway)
        assert (await shop.payment(session_id))["status"] == "PENDING"
        broker.restore()
        await eventually(lambda: _is_ready(gateway))
        await shop.deliver(event, event, gateway=gateway)
        await shop.told(session_id, "payment.paid")
        await gateway.stop()


async def _is_ready(process: Process) -> bool:
    return await asyncio.to_thread(says_ready, process.url)


async def test_a_key_that_the_provider_refuses_delays_and_loses_nothing(shop: Shop) -> None:
    unauthorized = {"error": {"type": "invalid_request_error", "code": "api_key_expired"}}
    shop.stripe.answer_next(CREATE, 401, unauthorized)
    session_id = await shop.stop_session()
    await shop.told(session_id, "payment.link_created")
    assert '"payment_step_postponed"' in shop.worker.log_tail()


async def test_sigterm_while_the_provider_hangs_exits_with_0_and_another_worker_goes_on(shop: Shop) -> None:
    hold = shop.stripe.hold_next(CREATE)
    session_id = await shop.stop_session()
    await hold.arrived.wait()
    assert await shop.worker.stop() == 0
    await shop.replace_worker()
    hold.drop()
    await shop.told(session_id, "payment.link_created")
    assert len(shop.checkouts(session_id)) == 1


async def test_who_waits_for_a_new_link_is_shown_it(shop: Shop) -> None:
    """Two at once, with Prefer: wait: both are shown the link that was made, and none the one that was ended."""
    session_id, first = await shop.with_link()
    async with httpx.AsyncClient(base_url=shop.gateway.url, timeout=30, trust_env=False) as app:
        body, headers = {"sessionId": session_id}, {"Prefer": "wait=20"}
        answers = await asyncio.gather(
            *(app.post("/api/v1/payment/recreate-link", json=body, headers=headers) for _ in range(2))
        )
    assert [answer.status_code for answer in answers] == [200, 200]
    urls = {answer.json()["url"] for answer in answers}
    current = shop.checkouts(session_id)
    assert urls <= {shop.stripe.sessions[each]["url"] for each in current[1:]}
    assert shop.stripe.sessions[first]["url"] not in urls


async def test_the_old_link_is_ended_at_the_provider_before_there_is_a_new_one(shop: Shop) -> None:
    session_id, first = await shop.with_link()
    hold = shop.stripe.hold_next(EXPIRE)
    await shop.wire.publish("payment.recreate_link.v1", {"sessionId": session_id, "expiresInMinutes": 30})
    await hold.arrived.wait()
    assert len(shop.checkouts(session_id)) == 1
    hold.release()
    await shop.told(session_id, "payment.link_created", count=2)
    assert shop.stripe.sessions[first]["status"] == "expired"
    assert not shop.stripe.pay(first)


async def test_yen_go_to_the_provider_as_yen(shop: Shop) -> None:
    tariff = {"name": "tokyo", "currency": "JPY", "flat": "500", "chargerIds": ["TOKYO"]}
    await shop.wire.publish("session.set_tariff.v1", tariff, exchange="charging.commands")
    session_id = str(await shop.wire.publish("session.start.v1", {"chargerId": "TOKYO"}))
    await shop.told(session_id, "session.started")
    await shop.wire.publish("session.stop.v1", {"sessionId": session_id, "energyKwh": 1})
    event = await shop.told(session_id, "payment.link_created")
    assert (event["payment"]["amount"], event["payment"]["currency"]) == ("500.00", "JPY")
    assert shop.stripe.sessions[shop.checkouts(session_id)[-1]]["amount_total"] == 500
    shop.stripe.pay(shop.checkouts(session_id)[-1])
    await shop.deliver(*shop.events(session_id))
    await shop.told(session_id, "payment.paid")
    await shop.wire.publish("payment.refund.v1", {"sessionId": session_id, "amount": "120"})
    await shop.told(session_id, "payment.refunded")
    assert [refund["amount"] for refund in shop.refunds(session_id)] == [120]

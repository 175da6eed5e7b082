"""Events of payment providers: only the provider's own are taken, once each, and nothing but ids goes on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any
from uuid import uuid5

import httpx
import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import Scope
from gateway.settings import GatewaySettings
from gateway.webhooks import MAX_EVENT_BYTES, TOLERANCE_S, Webhooks, webhooks_of
from shared.broker.publisher import Outcome
from shared.commands import canonical_body, parse_command
from shared.ids import NAMESPACE
from shared.settings import PaymentProvider, load
from tests.unit.gateway.fakes import FakePublisher, api_key, application, opened
from tests.unit.gateway.test_acknowledgements import TRACE
from tests.unit.gateway.test_bad_input import json_values, problem

SECRET = "whsec_ours"
STRIPE = webhooks_of(PaymentProvider.STRIPE, SECRET)
SANDBOX = webhooks_of(PaymentProvider.SANDBOX, None)
NONE = webhooks_of(PaymentProvider.NONE, None)
PATH = "/api/v1/payment/webhooks/{}"
KEYS = (api_key("app-key", "app", Scope.SESSIONS),)
REFERENCE = "0b0c1c4e-8f5e-5a53-9c35-0b7a1f1f3c11"
CHECKOUT: dict[str, Any] = {
    "id": "evt_1", "object": "event", "type": "checkout.session.completed", "livemode": False, "pending_webhooks": 1,
    "data": {
        "object": {
            "id": "cs_test_1", "object": "checkout.session", "client_reference_id": REFERENCE, "amount_total": 1234,
            "payment_intent": "pi_1", "customer_email": "driver@example.com",
            "customer_details": {"email": "driver@example.com", "name": "A Driver", "address": {"line1": "Street 1"}},
            "metadata": {"reference": REFERENCE, "sessionId": REFERENCE, "note": "driver@example.com"},
        },
        "previous_attributes": {"customer_email": "old@example.com"},
    },
    "request": {"id": "req_1", "idempotency_key": "x"},
}  # fmt: skip
TRIMMED = {
    "id": "evt_1", "type": "checkout.session.completed",
    "data": {
        "object": {
            "id": "cs_test_1", "object": "checkout.session", "client_reference_id": REFERENCE, "payment_intent": "pi_1",
            "metadata": {"reference": REFERENCE, "sessionId": REFERENCE},
        }
    },
}  # fmt: skip
SANDBOX_EVENT = {"id": "event-1", "type": "link.paid", "linkId": "sbx_1"}


def signature(body: bytes, *, secret: str = SECRET, age_s: float = 0) -> str:
    """As Stripe signs."""
    header: str = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(time.time() - age_s))
    return header


async def post(
    body: bytes,
    signed: str | None = None,
    *,
    publisher: FakePublisher | None = None,
    webhooks: Webhooks = STRIPE,
    provider: str = "stripe",
    **headers: str,
) -> httpx.Response:
    """Post as a provider does: without an API key, to a gateway that wants one elsewhere."""
    named = headers if signed is None else {"Stripe-Signature": signed, **headers}
    async with opened(publisher or FakePublisher(), KEYS, webhooks=webhooks) as client:
        return await client.post(PATH.format(provider), content=body, headers=named)


async def test_a_signed_event_is_acknowledged_once_the_broker_has_it() -> None:
    """The message is the provider's, for the payments queue, and the worker reads the command that was published."""
    body, publisher = json.dumps(CHECKOUT).encode(), FakePublisher()
    answer = await post(body, signature(body), publisher=publisher, traceparent=TRACE)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (outgoing,) = publisher.published
    message = outgoing.message
    assert (outgoing.exchange, outgoing.routing_key) == ("charging.commands", "payment.provider_event.v1")
    assert message.headers == {"client": "provider:stripe", "privileged": True, "traceparent": TRACE}
    assert message.message_id == message.correlation_id == str(uuid5(NAMESPACE, "stripe event evt_1"))
    assert json.loads(message.body) == {"provider": "stripe", "eventId": "evt_1", "event": TRIMMED}
    assert canonical_body(parse_command(message.body, str(message.type))) == message.body


async def test_nothing_of_the_driver_reaches_the_queue() -> None:
    """Neither from where such data are at home, nor from a field of ours that somebody put it in."""
    event = json.loads(json.dumps(CHECKOUT))
    event["data"]["object"]["client_reference_id"] = "driver@example.com"
    event["data"]["object"]["metadata"]["reference"] = "A Driver, Street 1"
    body, publisher = json.dumps(event).encode(), FakePublisher()
    assert (await post(body, signature(body), publisher=publisher)).status_code == 200
    sent = publisher.published[0].message.body
    for personal in (b"@", b"Driver", b"Street", b"note", b"customer", b"previous"):
        assert personal not in sent
    assert json.loads(sent)["event"]["data"]["object"]["metadata"] == {"sessionId": REFERENCE}


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (
            {"id": "re_1", "object": "refund", "payment_intent": {"id": "pi_1", "receipt_email": "x@example.com"}},
            {"id": "re_1", "object": "refund", "payment_intent": "pi_1"},
        ),
        ({"id": "ch_1", "payment_intent": None, "metadata": {}}, {"id": "ch_1"}),
        ({"id": "x" * 300, "metadata": {"reference": "y" * 300, "sessionId": 5}}, {}),
        ({"id": "cs_1", "metadata": ["reference"], "payment_intent": {"no": "id"}}, {"id": "cs_1"}),
        ([], {}),
        (None, {}),
    ],
)
async def test_an_event_is_cut_down_to_the_ids_that_it_has(found: Any, kept: dict[str, Any]) -> None:
    """A related object that came in whole is its id; what is no id, or too long, is left out."""
    body = json.dumps({"id": "evt_1", "type": "x", "data": {"object": found}}).encode()
    publisher = FakePublisher()
    assert (await post(body, signature(body), publisher=publisher)).status_code == 200
    event = json.loads(publisher.published[0].message.body)["event"]
    assert event == {"id": "evt_1", "type": "x", "data": {"object": kept}}


async def test_a_repeated_event_is_the_same_message() -> None:
    """Signed anew, with other counters: the same id and the same body, so the worker applies it once."""
    publisher = FakePublisher()
    for waiting in (1, 2):
        body = json.dumps(CHECKOUT | {"pending_webhooks": waiting}).encode()
        assert (await post(body, signature(body), publisher=publisher)).status_code == 200
    first, second = (published.message for published in publisher.published)
    assert (first.message_id, first.body) == (second.message_id, second.body)


BODY = json.dumps(CHECKOUT).encode()
BAD_SIGNATURES: dict[str, Callable[[], str | None]] = {
    "missing": lambda: None,
    "empty": lambda: "",
    "nonsense": lambda: "nonsense",
    "no values": lambda: "t=,v1=",
    "no signature": lambda: signature(BODY).partition(",")[0],
    "an empty signature": lambda: f"{signature(BODY).partition(',')[0]},v1=",
    "no time": lambda: signature(BODY).partition(",")[2],
    "an endless time": lambda: f"t={'9' * 5000},v1=00",
    "another time": lambda: signature(BODY).replace("t=", "t=1"),
    "another scheme": lambda: signature(BODY).replace("v1=", "v0="),
    "another secret": lambda: signature(BODY, secret="whsec_theirs"),
    "another body": lambda: signature(BODY + b" "),
    "too old": lambda: signature(BODY, age_s=TOLERANCE_S + 10),
}


@pytest.mark.parametrize("fault", BAD_SIGNATURES)
async def test_an_event_without_a_valid_signature_is_refused(fault: str) -> None:
    """400, and nothing is published."""
    publisher = FakePublisher()
    answer = await post(BODY, BAD_SIGNATURES[fault](), publisher=publisher)
    assert SECRET not in problem(answer, 400, "bad-signature")["detail"]
    assert publisher.published == []


async def test_a_signature_that_is_no_text_is_refused() -> None:
    """Neither header nor body need be of any encoding."""
    async with opened(webhooks=STRIPE) as client:
        for body, header in ((BODY, b"t=1,v1=\xff"), (b"\xff\xfe", signature(BODY).encode())):
            answer = await client.post(PATH.format("stripe"), content=body, headers=[(b"stripe-signature", header)])
            problem(answer, 400, "bad-signature")


async def test_one_valid_signature_of_several_is_enough() -> None:
    """While a secret is changed, Stripe signs with the old and the new one."""
    signed = signature(BODY).replace(",", f",v0=00,v1={'0' * 64},")
    assert signed.count("v1=") == 2
    assert (await post(BODY, signed)).status_code == 200
    assert (await post(BODY, signature(BODY, age_s=TOLERANCE_S - 10))).status_code == 200


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"", "malformed-body"), (b"{", "malformed-body"), (b"[]", "invalid-body"), (b"{}", "invalid-body"),
        (b'{"id": 5}', "invalid-body"), (b'{"id": "a b"}', "invalid-body"), (b'{"id": ""}', "invalid-body"),
        (b'{"data": {"object": {"id": "x"}}}', "invalid-body"), (b"null", "invalid-body"),
    ],
)  # fmt: skip
async def test_a_signed_body_that_is_no_event_is_refused(body: bytes, slug: str) -> None:
    publisher = FakePublisher()
    problem(await post(body, signature(body), publisher=publisher), 400, slug)
    assert publisher.published == []


def test_no_signed_body_whatsoever_is_a_fault_of_ours() -> None:
    """Any JSON, as an event or within one: 200 or 400, and what was published is small and a command."""
    publisher = FakePublisher()
    gateway = opened(publisher, webhooks=STRIPE)
    within = st.sampled_from(["id", "type", "data", "object", "metadata", "reference", "payment_intent"])
    values = st.recursive(json_values, lambda children: st.dictionaries(within, children, max_size=5), max_leaves=20)

    with asyncio.Runner() as runner:
        client = runner.run(gateway.__aenter__())

        @settings(max_examples=200)
        @given(event=values, is_named=st.booleans())
        def post(event: Any, is_named: bool) -> None:
            publisher.published.clear()
            body = json.dumps({"id": "evt_1", "type": "x", "data": {"object": event}} if is_named else event).encode()
            headers = {"Stripe-Signature": signature(body)}
            answer = runner.run(client.post(PATH.format("stripe"), content=body, headers=headers))
            assert answer.status_code in (200, 400)
            assert len(publisher.published) == (1 if answer.is_success else 0)
            for published in publisher.published:
                assert len(published.message.body) < 3000
                parse_command(published.message.body, "payment.provider_event.v1")

        post()
        runner.run(gateway.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("webhooks", "provider"),
    [(NONE, "sandbox"), (NONE, "none"), (SANDBOX, "stripe"), (STRIPE, "sandbox"), (STRIPE, "Stripe"), (STRIPE, "x")],
)
async def test_another_provider_than_the_configured_one_is_not_there(webhooks: Webhooks, provider: str) -> None:
    """404, whatever it sends."""
    publisher = FakePublisher()
    answer = await post(BODY, signature(BODY), publisher=publisher, webhooks=webhooks, provider=provider)
    problem(answer, 404, "not-found")
    assert publisher.published == []


@pytest.mark.parametrize(
    ("outcome", "slug"),
    [
        (Outcome.UNKNOWN, "outcome-unknown"),
        (Outcome.NOT_SENT, "broker-unavailable"),
        (Outcome.REFUSED, "broker-unavailable"),
        (Outcome.UNROUTABLE, "not-provisioned"),
    ],
)
async def test_an_event_that_the_broker_does_not_confirm_is_not_acknowledged(outcome: Outcome, slug: str) -> None:
    """503: the provider repeats it later, as the same message."""
    answer = await post(BODY, signature(BODY), publisher=FakePublisher(outcome))
    problem(answer, 503, slug)
    assert int(answer.headers["retry-after"]) > 0


async def test_an_event_may_be_bigger_than_a_command_but_is_bounded() -> None:
    """256 KiB, announced or not; what goes on is small all the same."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_EVENT_BYTES // 1024 + 1):
            yield b" " * 1024

    big = BODY.ljust(MAX_EVENT_BYTES)
    publisher = FakePublisher()
    assert (await post(big, signature(big), publisher=publisher)).status_code == 200
    assert len(publisher.published[0].message.body) < 1024
    problem(await post(big + b" ", signature(big + b" ")), 413, "body-too-large")
    async with opened(webhooks=STRIPE) as client:
        problem(await client.post(PATH.format("stripe"), content=chunks()), 413, "body-too-large")


async def test_a_provider_that_hangs_up_within_its_event_is_no_fault_of_ours() -> None:
    """Nothing is published, nothing raised, and the metrics say 499."""
    publisher = FakePublisher()
    app = application(publisher, webhooks=STRIPE)
    scope = {
        "type": "http", "method": "POST", "path": PATH.format("stripe"), "raw_path": b"", "query_string": b"",
        "headers": [(b"content-length", b"10")], "http_version": "1.1", "scheme": "http", "server": ("gateway", 80),
    }  # fmt: skip
    came: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"},
    ]  # fmt: skip

    async def receive() -> dict[str, Any]:
        return came.pop(0)

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 499
    assert publisher.published == []


@pytest.mark.parametrize("kind", ["link.paid", "link.declined"])
async def test_the_sandbox_takes_events_of_anybody(kind: str) -> None:
    """No money moves there; unknown keys are left behind."""
    publisher = FakePublisher()
    body = json.dumps(SANDBOX_EVENT | {"type": kind, "email": "driver@example.com"}).encode()
    answer = await post(body, publisher=publisher, webhooks=SANDBOX, provider="sandbox")
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    message = publisher.published[0].message
    assert message.headers == {"client": "provider:sandbox", "privileged": True}
    assert json.loads(message.body) == {
        "provider": "sandbox", "eventId": "event-1", "event": SANDBOX_EVENT | {"type": kind},
    }  # fmt: skip
    assert message.message_id == str(uuid5(NAMESPACE, "sandbox event event-1"))


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"id": ...}, "/id"),
        ({"id": 5}, "/id"),
        ({"id": ""}, "/id"),
        ({"id": "x" * 256}, "/id"),
        ({"type": "link.stolen"}, "/type"),
        ({"linkId": ...}, "/linkId"),
        ({"linkId": "x" * 65}, "/linkId"),
        ({"linkId": "a\0"}, "/linkId"),
    ],
)
async def test_an_invalid_event_of_the_sandbox_names_its_fault(change: dict[str, Any], pointer: str) -> None:
    body = {key: value for key, value in (SANDBOX_EVENT | change).items() if value is not ...}
    answer = await post(json.dumps(body).encode(), webhooks=SANDBOX, provider="sandbox")
    assert [fault["pointer"] for fault in problem(answer, 400, "invalid-body")["errors"]] == [pointer]
    problem(await post(b"{", webhooks=SANDBOX, provider="sandbox"), 400, "malformed-body")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")
    monkeypatch.setenv("AMQP_URL", "amqp://localhost/x")


def faults_of_start(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        load(GatewaySettings)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("environment")
def test_the_provider_is_named_in_any_case_and_the_sandbox_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(GatewaySettings).payment_provider is PaymentProvider.SANDBOX
    monkeypatch.setenv("PAYMENT_PROVIDER", "NONE")
    assert load(GatewaySettings).payment_provider is PaymentProvider.NONE
    monkeypatch.setenv("PAYMENT_PROVIDER", "Stripe")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", f"{SECRET}\n")
    settings = load(GatewaySettings)
    assert settings.payment_provider is PaymentProvider.STRIPE
    assert settings.stripe_webhook_secret is not None
    assert settings.stripe_webhook_secret.get_secret_value() == SECRET
    assert SECRET not in repr(settings)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("secret", [None, "", " \n"])
def test_stripe_without_its_secret_is_a_fault_of_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secret: str | None
) -> None:
    """Every event would be refused, and nobody would be seen to have paid."""
    monkeypatch.setenv("PAYMENT_PROVIDER", "stripe")
    if secret is not None:
        monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", secret)
    assert faults_of_start(capsys) == ["STRIPE_WEBHOOK_SECRET: is required with PAYMENT_PROVIDER=stripe"]


@pytest.mark.usefixtures("environment")
def test_stripe_without_its_sdk_is_a_fault_of_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an optional extra; the sentence says how to get it."""
    monkeypatch.setattr("shared.payments.find_spec", lambda _: None)
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    assert load(GatewaySettings).payment_provider is PaymentProvider.SANDBOX
    monkeypatch.setenv("PAYMENT_PROVIDER", "stripe")
    (fault,) = faults_of_start(capsys)
    assert fault.startswith("PAYMENT_PROVIDER: ")
    assert "pip install" in fault


@pytest.mark.usefixtures("environment")
def test_an_unknown_provider_is_a_fault_of_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAYMENT_PROVIDER", "barter")
    (fault,) = faults_of_start(capsys)
    assert fault.startswith("PAYMENT_PROVIDER: ")

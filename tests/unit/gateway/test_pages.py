"""The pages for drivers: what they show, what they let happen, and what they keep out."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid5

import httpx
import pytest

from gateway.database import Database
from gateway.pages import SandboxLink
from gateway.resources import Row
from gateway.webhooks import webhooks_of
from shared.broker.publisher import Outcome
from shared.clock import now_utc
from shared.errors import Unavailable
from shared.ids import NAMESPACE
from shared.settings import PaymentProvider
from tests.unit.gateway.fakes import NO_DATABASE, FakePublisher, opened
from tests.unit.gateway.test_bad_input import problem

PATH = "/sandbox/pay/sbx_1"
SOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


class FakeDatabase(Database):
    """The sandbox's books, with one link in them."""

    def __init__(self, fault: Exception | None = None, **changes: Any) -> None:
        super().__init__(NO_DATABASE)
        self.fault = fault
        defaults = {
            "id": "sbx_1", "description": "Charging at CHARGER-001", "amount_minor": 1234, "currency": "EUR",
            "status": "open", "expires_at": now_utc() + timedelta(hours=1),
        }  # fmt: skip
        self.link: Row = defaults | changes

    async def read(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        if self.fault is not None:
            raise self.fault
        assert "sandbox_links" in statement
        return [self.link] if parameters["id"] == self.link["id"] else []


async def get(path: str = PATH, fault: Exception | None = None, **changes: Any) -> httpx.Response:
    async with opened(database=FakeDatabase(fault, **changes)) as client:
        return await client.get(path)


def buttons(page: httpx.Response) -> list[str]:
    return re.findall(r'<button[^>]* value="(\w+)"', page.text)


def heading(page: httpx.Response) -> str:
    (found,) = re.findall(r"<h1[^>]*>([^<]*)</h1>", page.text)
    return str(found)


def is_refreshed(page: httpx.Response) -> bool:
    return 'http-equiv="refresh"' in page.text


async def test_an_open_link_shows_what_is_owed_and_two_buttons() -> None:
    """The amount with its currency, the charger, until when, and that no money moves."""
    page = await get(expires_at=now_utc().replace(year=2099, month=5, day=4, hour=12, minute=30))
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "12.34 <small>EUR</small>" in page.text
    assert "Charging at CHARGER-001" in page.text
    assert "2099-05-04 12:30 UTC" in page.text
    assert "no money moves" in page.text
    assert buttons(page) == ["pay", "decline"]
    assert not is_refreshed(page)


@pytest.mark.parametrize(
    ("minor", "currency", "shown"), [(500, "JPY", "500"), (5, "EUR", "0.05"), (9_999_999_999, "USD", "99999999.99")]
)
async def test_an_amount_has_its_currencys_places(minor: int, currency: str, shown: str) -> None:
    page = await get(amount_minor=minor, currency=currency)
    assert f'<p class="amount">{shown} <small>{currency}</small></p>' in page.text


@pytest.mark.parametrize(("status", "says"), [("paid", "✓ Paid"), ("declined", "Declined"), ("expired", "Expired")])
@pytest.mark.parametrize("query", ["", "?sent=pay"])
async def test_a_link_that_is_not_open_says_so_and_takes_nothing(status: str, says: str, query: str) -> None:
    page = await get(PATH + query, status=status)
    assert heading(page) == says
    assert buttons(page) == []
    assert not is_refreshed(page)


@pytest.mark.parametrize("query", ["", "?sent=pay"])
async def test_a_link_is_expired_before_the_worker_has_noticed(query: str) -> None:
    page = await get(PATH + query, expires_at=now_utc() - timedelta(seconds=1))
    assert heading(page) == "Expired"
    assert buttons(page) == []
    assert not is_refreshed(page)


@pytest.mark.parametrize("sent", ["pay", "decline"])
async def test_after_the_button_the_page_waits_for_the_result(sent: str) -> None:
    """It loads itself again, without a script, for as long as the link is open."""
    page = await get(f"{PATH}?sent={sent}")
    assert heading(page) == "Being processed …"
    assert is_refreshed(page)
    assert buttons(page) == []
    assert buttons(await get(f"{PATH}?sent=nonsense")) == ["pay", "decline"]


@pytest.mark.parametrize(("action", "kind"), [("pay", "link.paid"), ("decline", "link.declined")])
async def test_a_button_pressed_twice_is_one_event(action: str, kind: str) -> None:
    """303 back to the page; both messages have one id and one body."""
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase()) as client:
        answers = [await client.post(PATH, data={"action": action}) for _ in range(2)]
    assert [(answer.status_code, answer.headers["location"]) for answer in answers] == [(303, f"?sent={action}")] * 2
    first, second = (published.message for published in publisher.published)
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert first.headers == {"client": "provider:sandbox", "privileged": True}
    assert json.loads(first.body) == {
        "provider": "sandbox", "eventId": f"sbx_1.{action}",
        "event": {"id": f"sbx_1.{action}", "type": kind, "linkId": "sbx_1"},
    }  # fmt: skip
    assert first.message_id == str(uuid5(NAMESPACE, f"sandbox event sbx_1.{action}"))


async def test_the_two_buttons_are_two_events() -> None:
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase()) as client:
        for action in ("pay", "decline"):
            await client.post(PATH, data={"action": action})
    assert len({published.message.message_id for published in publisher.published}) == 2


@pytest.mark.parametrize("changes", [{"status": "paid"}, {"status": "declined"}, {"expires_at": SOON}])
async def test_a_button_of_an_old_page_publishes_nothing(changes: dict[str, Any]) -> None:
    """It leads to the page, which says what has become of the link."""
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase(**changes)) as client:
        answer = await client.post(PATH, data={"action": "pay"})
    assert answer.status_code == 303
    assert publisher.published == []


@pytest.mark.parametrize("form", [b"", b"action=", b"action=steal", b"pay", b"\xff", b"Action=pay"])
async def test_a_form_without_one_of_the_two_actions_is_refused(form: bytes) -> None:
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase()) as client:
        problem(await client.post(PATH, content=form), 400, "invalid-body")
        problem(await client.post(PATH, content=b"action=pay".ljust(1025, b"&")), 413, "body-too-large")
    assert publisher.published == []


async def test_a_payment_that_the_broker_does_not_confirm_does_not_look_taken() -> None:
    async with opened(FakePublisher(Outcome.NOT_SENT), database=FakeDatabase()) as client:
        problem(await client.post(PATH, data={"action": "pay"}), 503, "broker-unavailable")


@pytest.mark.parametrize("name", ["sbx_2", "x" * 65, "%00", "%ff", "a%20b", "%3Cscript%3E"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_link_is_a_page_that_says_so(method: str, name: str) -> None:
    """404, for people; what is no id is not even looked up."""
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase()) as client:
        page = await client.request(method, f"/sandbox/pay/{name}", content=b"action=pay" if method == "POST" else None)
    assert (page.status_code, heading(page)) == (404, "No such payment")
    assert "<script" not in page.text
    assert publisher.published == []


@pytest.mark.parametrize("provider", [PaymentProvider.NONE, PaymentProvider.STRIPE])
async def test_without_the_sandbox_there_is_no_pay_page(provider: PaymentProvider) -> None:
    """A 404 problem, for a link that is still in its books, too; nobody settles a real debt there."""
    publisher, webhooks = FakePublisher(), webhooks_of(provider, "whsec_x")
    async with opened(publisher, database=FakeDatabase(), webhooks=webhooks) as client:
        problem(await client.get(PATH), 404, "not-found")
        problem(await client.post(PATH, data={"action": "pay"}), 404, "not-found")
        assert (await client.get("/payment/return")).status_code == 200
    assert publisher.published == []


async def test_without_the_database_the_pay_page_is_a_503() -> None:
    publisher = FakePublisher()
    async with opened(publisher, database=FakeDatabase(Unavailable("down"))) as client:
        problem(await client.get(PATH), 503, "database-unavailable")
        problem(await client.post(PATH, data={"action": "pay"}), 503, "database-unavailable")
    assert publisher.published == []


async def test_what_comes_from_outside_is_escaped() -> None:
    """A charger's name is its operator's to choose; so it may be a script, or a placeholder of the template."""
    page = await get(description="""<script>alert(1)</script> & "$state" '${style}'""")
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;$state&quot; &#x27;${style}&#x27;" in page.text


@pytest.mark.parametrize("path", [PATH, f"{PATH}?sent=pay", "/sandbox/pay/unknown", "/payment/return"])
async def test_a_page_loads_nothing_and_is_shown_in_no_frame(path: str) -> None:
    """Its policy forbids whatever is not in it; its address goes nowhere, for it is all that it takes to pay."""
    page = await get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r'<script|\son\w+=|style="|(?:src|href)="(?!data:,|\?")|url\(|@import', page.text)
    assert '<meta name="viewport"' in page.text


async def test_who_comes_back_from_a_checkout_is_told_nothing_untrue() -> None:
    """Who has paid and who has turned back come here alike; neither the query nor the database is asked."""
    async with opened() as client:
        page = await client.get("/payment/return?session_id=cs_1")
    assert page.status_code == 200
    assert "If you have paid" in page.text
    assert "cs_1" not in page.text


async def test_the_metrics_know_the_pages_template_not_the_link() -> None:
    async with opened(database=FakeDatabase()) as client:
        await client.get(PATH)
        text = (await client.get("/metrics")).text
    assert 'voltline_gateway_requests_total{route="/sandbox/pay/{linkId}",status="200"}' in text
    assert "sbx_1" not in text


def test_a_link_is_open_up_to_its_end() -> None:
    link = SandboxLink(
        id="x", description="", amount_minor=1, currency="EUR", status="open", expires_at=SOON + timedelta(seconds=1)
    )
    assert link.state(SOON).value == "open"
    assert link.state(SOON + timedelta(seconds=1)).value == "expired"

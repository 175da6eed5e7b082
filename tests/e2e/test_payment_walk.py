"""The whole way of a payment with the sandbox, as a newcomer walks it: stop, link, pay, callback, refund, callback."""

import httpx
import pytest
from playwright.async_api import Page, expect

from ops.local_stack.processes import Name, Processes
from ops.receiver import Callback, Receiver
from tests.patience import PATIENT, PATIENT_CLIENT_S

pytestmark = pytest.mark.browser


async def test_a_driver_pays_in_the_browser_and_gets_money_back(
    processes: Processes, receiver: Receiver, page: Page
) -> None:
    """Real broker, database, HTTP and browser; the callbacks are signed, and numbered in order."""
    gateway = await processes.start(Name.GATEWAY, port=None, **PATIENT)
    await processes.start(Name.SESSION_WORKER, GATEWAY_PUBLIC_URL=gateway.url)
    await processes.start(Name.CALLBACK_WORKER)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENT_CLIENT_S, trust_env=False) as app:
        body = {"chargerId": "CHARGER-001", "callbackUrl": receiver.url("driver")}
        session_id = (await app.post("/api/v1/session/start", json=body)).json()["sessionId"]
        await app.post("/api/v1/session/stop", json={"sessionId": session_id, "finalCost": "12.34"})
        assert (await told(receiver, "payment.link_created")).data["payment"]["status"] == "PENDING"
        link = (await app.get(f"/api/v1/payment/link/{session_id}")).json()
        assert (link["amount"], link["currency"], link["status"]) == ("12.34", "EUR", "PENDING")

        await page.goto(link["url"])
        await expect(page.get_by_text("CHARGER-001")).to_be_visible()
        await page.get_by_role("button", name="Pay 12.34 EUR").click()
        await expect(page.get_by_role("heading")).to_contain_text("Paid")
        paid = await told(receiver, "payment.paid")
        assert (paid.verified, paid.data["payment"]["status"], paid.data["sequence"]) == (True, "PAID", 4)

        refund = {"sessionId": session_id, "amount": "2.34"}
        session = await app.post("/api/v1/payment/refund", json=refund, headers={"Prefer": "wait=30"})
        assert (session.status_code, session.json()["payment"]["status"]) == (200, "PARTIALLY_REFUNDED")
        assert (await told(receiver, "payment.refunded")).data["refund"]["amount"] == "2.34"
        too_much = await app.post(
            "/api/v1/payment/refund", json={"sessionId": session_id, "amount": "10.01"}, headers={"Prefer": "wait=30"}
        )
        assert (too_much.status_code, too_much.json()["reason"]) == (409, "AMOUNT_TOO_LARGE")
        assert (await app.get(f"/api/v1/payment/link/{session_id}")).json()["status"] == "PAID"


async def told(receiver: Receiver, kind: str) -> Callback:
    """The callback of this type."""
    return (await receiver.wait_for(lambda callback: callback.type == kind, timeout_s=20))[0]

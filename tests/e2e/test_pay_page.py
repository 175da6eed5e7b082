"""The sandbox's pay page in a real browser, without scripts, as a driver's phone shows it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from playwright.async_api import Browser, Page, expect

from ops.local_stack.processes import Name, Process, Processes
from shared.topology import PAYMENT_COMMANDS
from tests.integration.test_gateway_payments import put_sandbox_link
from tests.patience import PATIENT
from tests.servers import House
from tests.wire import open_wire

pytestmark = pytest.mark.browser


@pytest.fixture
async def gateway(processes: Processes) -> Process:
    return await processes.start(Name.GATEWAY, port=None, **PATIENT)


@pytest.fixture
async def phone(page: Page) -> AsyncIterator[Page]:
    """A phone in the dark that runs no scripts."""
    browser = page.context.browser
    assert isinstance(browser, Browser)
    context = await browser.new_context(
        viewport={"width": 360, "height": 640}, color_scheme="dark", java_script_enabled=False
    )
    yield await context.new_page()
    await context.close()


@pytest.mark.parametrize(
    ("button", "status", "result"), [("Pay 12.34 EUR", "paid", "✓ Paid"), ("Decline", "declined", "Declined")]
)
async def test_a_driver_decides_and_sees_the_result(
    gateway: Process,
    house: House,
    database: asyncpg.Connection,
    phone: Page,
    button: str,
    status: str,
    result: str,
) -> None:
    """The page asks nobody else, its own policy holds, and the result comes by itself."""
    asked: list[str] = []
    complaints: list[str] = []
    phone.on("request", lambda request: asked.append(request.url))
    phone.on("console", lambda message: complaints.append(message.text))
    link_id = await put_sandbox_link(database)
    answer = await phone.goto(f"{gateway.url}/sandbox/pay/{link_id}")
    assert answer is not None
    assert answer.status == 200
    await expect(phone.get_by_text("Charging at <CHARGER>")).to_be_visible()
    # The style sheet is let through by its hash in the policy.
    await expect(phone.locator("main")).to_have_css("border-radius", "16px")
    await _save_for_people(phone, "open")
    await phone.get_by_role("button", name=button).click()
    await expect(phone.get_by_role("heading")).to_contain_text("Being processed")
    async with open_wire(house.amqp_url) as wire, asyncio.timeout(10):
        assert (await wire.get(PAYMENT_COMMANDS)).type == "payment.provider_event.v1"
    await database.execute("UPDATE sandbox_links SET status = $1 WHERE id = $2", status, link_id)
    await expect(phone.get_by_role("heading")).to_contain_text(result)
    await expect(phone.get_by_role("button")).to_have_count(0)
    await _save_for_people(phone, status)
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(gateway.url).netloc}
    assert complaints == []


async def _save_for_people(page: Page, name: str) -> None:
    """Keep a picture where somebody asks for one: SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / f"pay-page-{name}.png", full_page=True)

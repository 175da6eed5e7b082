"""The interactive documentation in a real browser that may reach no other host."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, expect

from ops.local_stack.processes import Name, Process, Processes
from tests.patience import PATIENT

pytestmark = pytest.mark.browser


@pytest.fixture
async def gateway(processes: Processes) -> Process:
    return await processes.start(Name.GATEWAY, port=None, **PATIENT)


async def test_a_session_is_started_from_the_documentation_page(gateway: Process, page: Page) -> None:
    """ "Try it out" works on a machine without internet: the answer is seen, and nothing asks another host."""
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    await page.goto(f"{gateway.url}/api")
    await expect(page.locator(".opblock-tag").filter(has_text="Session Management")).to_be_visible()
    operation = page.locator(".opblock").filter(has_text="Start a new charging session")
    await operation.locator(".opblock-summary").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()

    answer = operation.locator(".live-responses-table")
    await expect(answer.locator(".response-col_status").nth(1)).to_contain_text("202")
    await expect(answer).to_contain_text("Charging session started successfully")
    await expect(answer).to_contain_text("CHARGER-001")
    await _save_for_people(page)
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith("data:")}
    assert hosts == {urlsplit(gateway.url).netloc}
    assert complaints == []


async def _save_for_people(page: Page) -> None:
    """Keep a picture where somebody asks for one: SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / "swagger-ui.png", full_page=True)

"""The pages for drivers. They need no key: whoever has the address of a payment may pay it."""

import re
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from gateway.database import Database
from gateway.incoming import read_body
from gateway.pages import PAGE_HEADERS, PageState, SandboxLink, pay_page, return_page, unknown_page
from gateway.problems import Kind, Problem
from gateway.publishing import CommandPublisher
from gateway.webhooks import SandboxEvent, publish_event, sandbox_event
from shared.clock import now_utc
from shared.payments import LINK_DECLINED, LINK_PAID, PAY_PATH, RETURN_PATH

# One field with one of two words.
MAX_FORM_BYTES = 1024

_LINK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EVENT_TYPES = {"pay": LINK_PAID, "decline": LINK_DECLINED}
_LINK = """
    SELECT id, description, "amountMinor" AS amount_minor, currency, status, "expiresAt" AS expires_at
    FROM sandbox_links WHERE id = :id"""


def page_routes(commands: CommandPublisher, database: Database, *, has_sandbox: bool) -> APIRouter:
    """Return the routes; without the sandbox its pages are not there."""
    router = APIRouter(include_in_schema=False)

    @router.get(RETURN_PATH)
    async def get_return() -> Response:
        return _page(return_page())

    @router.get(PAY_PATH + "/{linkId}")
    async def get_payment(request: Request, link_id: Annotated[str, Path(alias="linkId")]) -> Response:
        link = await _read(database, link_id, has_sandbox=has_sandbox)
        if link is None:
            return _page(unknown_page(), 404)
        is_sent = request.query_params.get("sent") in _EVENT_TYPES
        return _page(pay_page(link, link.state(now_utc(), is_sent=is_sent)))

    @router.post(PAY_PATH + "/{linkId}")
    async def post_payment(request: Request, link_id: Annotated[str, Path(alias="linkId")]) -> Response:
        link = await _read(database, link_id, has_sandbox=has_sandbox)
        if link is None:
            return _page(unknown_page(), 404)
        headers = dict(request.scope["headers"])
        action = _action(await read_body(request.receive, headers, most_bytes=MAX_FORM_BYTES))
        if link.state(now_utc()) is PageState.OPEN:
            await publish_event(commands, sandbox_event(_event(link, action)), headers)
        # Relative, so that it leads back under a proxy's prefix, too.
        return RedirectResponse(f"?sent={action}", status_code=303, headers=PAGE_HEADERS)

    return router


async def _read(database: Database, link_id: str, *, has_sandbox: bool) -> SandboxLink | None:
    if not has_sandbox:
        raise Problem(Kind.NOT_FOUND, "The sandbox is not the payment provider here.")
    if not _LINK_ID.fullmatch(link_id):
        return None
    rows = await database.read(_LINK, {"id": link_id})
    return SandboxLink(**rows[0]) if rows else None


def _action(form: bytes) -> str:
    """Return the button that was pressed, or raise the 400."""
    (action, *_) = parse_qs(form.decode(errors="replace")).get("action", [""])
    if action not in _EVENT_TYPES:
        errors = [{"pointer": "/action", "detail": "must be pay or decline"}]
        raise Problem(Kind.INVALID_BODY, "action must be pay or decline", errors=errors)
    return action


def _event(link: SandboxLink, action: str) -> SandboxEvent:
    """The same button pressed twice is one event."""
    return SandboxEvent.model_validate({"id": f"{link.id}.{action}", "type": _EVENT_TYPES[action], "linkId": link.id})


def _page(content: str, status: int = 200) -> Response:
    return HTMLResponse(content, status_code=status, headers=PAGE_HEADERS)

"""A story of the load about money: a session with a cost, its link, a driver who pays, more than once, and a refund."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from shared.ids import NAMESPACE, idempotent_id

if TYPE_CHECKING:
    from tests.faults.load import Load

ANONYMOUS = "anonymous"
LINK_PATH = "/api/v1/payment/link/"
COSTS = ("12.34", "3.10", "99.99")
# Refunds that leave something, so that a second one by mistake would be taken.
REFUNDS = ("0.70", "0.35")
POLL_S = 0.5
# A link waits for a lease that a killed worker held.
LOOKS_MOST = 120


async def payment(load: "Load", name: str, _: bool) -> None:
    """Start, stop, wait for the link, sometimes want another, pay on all of them, twice, and want some back."""
    subject = idempotent_id(ANONYMOUS, f"{name}-start")
    start = {"chargerId": f"M-{name}", "callbackUrl": load.callback_url}
    stop = {"sessionId": str(subject), "finalCost": load.chance.choice(COSTS)}
    await load.post("/api/v1/session/start", "session.start.v1", f"{name}-start", subject, start, True)
    await load.post("/api/v1/session/stop", "session.stop.v1", f"{name}-stop", subject, stop, True)
    links = [await _link(load, subject, but=())]
    if links[0] and load.chance.random() < 0.4:
        body = {"sessionId": str(subject)}
        key = f"{name}-recreate"
        await load.post("/api/v1/payment/recreate-link", "payment.recreate_link.v1", key, subject, body, True)
        links.append(await _link(load, subject, but=links))
    await asyncio.gather(*(_pay(load, name, subject, link) for link in links if link))
    if not await _until(load, LINK_PATH + str(subject), lambda found: found.get("status") == "PAID"):
        return
    for number, amount in enumerate(REFUNDS[: load.chance.randrange(3)]):
        body = {"sessionId": str(subject), "amount": amount}
        key = f"{name}-refund-{number}"
        await load.post("/api/v1/payment/refund", "payment.refund.v1", key, subject, body, True)


async def _pay(load: "Load", name: str, subject: UUID, link: str) -> None:
    """Press the button; the provider tells of it up to three times under one id, and once under another."""
    for what in ("pay", "tell"):
        event = {"id": f"{link}.{what}", "type": "link.paid", "linkId": link}
        message_id = uuid5(NAMESPACE, f"sandbox event {event['id']}")
        key = f"{name}-{what}-{link}"
        times = range(load.chance.randrange(1, 4))
        await asyncio.gather(*(load.press(f"{key}-{time}", message_id, subject, event) for time in times))


async def _link(load: "Load", subject: UUID, but: Any) -> str | None:
    """The id of the link that can be paid now; None where there comes no new one."""
    found = await _until(
        load, LINK_PATH + str(subject), lambda found: _id(found) not in (None, *but) or found.get("status") == "PAID"
    )
    return None if _id(found) in but else _id(found)


async def _until(load: "Load", path: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(LOOKS_MOST):
        found = await load.read(path)
        if is_so(found):
            return found
        await asyncio.sleep(POLL_S)
    return {}


def _id(found: dict[str, Any]) -> str | None:
    url = found.get("url")
    return str(url).rpartition("/")[2] if url else None

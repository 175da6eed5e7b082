"""The demo's story: a driver's request, a session with metadata, its end, its payment and a refund.

Each has its callback, and its row as it is in the database afterwards.
"""

import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
from rich.console import Console

from ops import demo_screen as screen
from ops.receiver import Callback, Receiver

# On an idle machine a callback arrives within some 50 ms.
CALLBACK_TIMEOUT_S = 15

# The bodies of the documents that the product was ordered by.
EXAMPLE_REQUEST = {
    "stationId": "9673200c-05a1-4b2d-aa4c-9deb130981a2",
    "driverId": "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL",
}
EXAMPLE_START = {
    "chargerId": "CHARGER-001",
    "metadata": {
        "location": "Station A, Bay 3",
        "connectorType": "CCS",
        "maxPower": "150kW",
        "stationName": "Downtown Charging Hub",
    },
}
ENERGY_KWH = 23.4
COST = "12.34"
REFUND = "2.34"

REQUEST_ROW = "SELECT * FROM charging_session_requests WHERE id = $1::uuid"
SESSION_ROW = "SELECT * FROM charging_sessions WHERE id = $1::uuid"


class DemoFailed(Exception):
    """Something did not come, or came wrong; the text says what."""


@dataclass(frozen=True)
class Scene:
    """What the story is told with. `database` may only read."""

    console: Console
    gateway: httpx.AsyncClient
    database: asyncpg.Connection
    receiver: Receiver


async def tell(scene: Scene) -> None:
    """Tells the whole story; raises `DemoFailed` at the first thing that is not as it should be."""
    requested_id = await _request(scene)
    started_id = await _start(scene)
    await _stop(scene, started_id)
    await _pay(scene)
    await _refund(scene, started_id)
    # A driver has one session at a station: this one ends, so that the story can be told again on the same stack.
    await scene.gateway.post("/api/v1/session/cancel", json={"sessionId": requested_id})


async def _request(scene: Scene) -> str:
    screen.show_title(scene.console, 1, "A driver asks for a charging session")
    body = {**EXAMPLE_REQUEST, "callbackUrl": scene.receiver.url("driver")}
    sent_at = time.monotonic()
    answer = await _post(scene, "/api/charging-session-requests", body, expected=200)
    callback = await _callback(scene, "/driver", "request.decided", sent_at)
    if callback.data["decision"] != "allowed":
        raise DemoFailed(f"the request was decided {callback.data['decision']}: {callback.data['reason']}")
    await _show_row(scene, REQUEST_ROW, answer.headers["location"].rpartition("/")[2])
    return str(callback.data["sessionId"])


async def _start(scene: Scene) -> str:
    screen.show_title(scene.console, 2, "A charger starts a session, with metadata")
    body = {**EXAMPLE_START, "callbackUrl": scene.receiver.url("charger")}
    sent_at = time.monotonic()
    answer = await _post(scene, "/api/v1/session/start", body, expected=202)
    await _callback(scene, "/charger", "session.started", sent_at)
    session_id: str = answer.json()["sessionId"]
    await _show_row(scene, SESSION_ROW, session_id)
    return session_id


async def _stop(scene: Scene, session_id: str) -> None:
    screen.show_title(scene.console, 3, "The session stops, with its energy and its cost")
    sent_at = time.monotonic()
    body = {"sessionId": session_id, "energyKwh": ENERGY_KWH, "finalCost": COST}
    await _post(scene, "/api/v1/session/stop", body, expected=202)
    await _callback(scene, "/charger", "session.completed", sent_at)
    await _show_row(scene, SESSION_ROW, session_id)


async def _pay(scene: Scene) -> None:
    """The sandbox provider moves no money: its pay page is the gateway's, and the demo presses its button."""
    screen.show_title(scene.console, 4, "The driver pays on the link's page")
    callback = await _callback(scene, "/charger", "payment.link_created", time.monotonic())
    page = urlsplit(callback.data["payment"]["link"]["url"]).path
    sent_at = time.monotonic()
    screen.show_request(scene.console, "POST", page, {"action": "pay"})
    answer = await scene.gateway.post(page, data={"action": "pay"})
    if answer.status_code != HTTPStatus.SEE_OTHER:
        raise DemoFailed(f"POST {page} was answered {answer.status_code} instead of 303: {answer.text}")
    await _callback(scene, "/charger", "payment.paid", sent_at)


async def _refund(scene: Scene, session_id: str) -> None:
    screen.show_title(scene.console, 5, "Some of it is given back")
    sent_at = time.monotonic()
    body = {"sessionId": session_id, "amount": REFUND, "reason": "The charger was slow"}
    await _post(scene, "/api/v1/payment/refund", body, expected=202)
    await _callback(scene, "/charger", "payment.refunded", sent_at)
    await _show_row(scene, SESSION_ROW, session_id)


async def _post(scene: Scene, path: str, body: dict[str, Any], *, expected: int) -> httpx.Response:
    screen.show_request(scene.console, "POST", path, body)
    began = time.monotonic()
    answer = await scene.gateway.post(path, json=body)
    if answer.status_code != expected:
        raise DemoFailed(f"POST {path} was answered {answer.status_code} instead of {expected}: {answer.text}")
    screen.show_answer(scene.console, answer, (time.monotonic() - began) * 1000)
    return answer


async def _callback(scene: Scene, path: str, wanted: str, sent_at: float) -> Callback:
    def is_next(callback: Callback) -> bool:
        return callback.path == path and callback.type in (wanted, "session.command_rejected")

    try:
        callback = (await scene.receiver.wait_for(is_next, timeout_s=CALLBACK_TIMEOUT_S))[0]
    except TimeoutError:
        raise DemoFailed(f"no callback {wanted} within {CALLBACK_TIMEOUT_S} s") from None
    if not callback.verified:
        raise DemoFailed(f"the signature of callback {callback.id} does not verify")
    if callback.type != wanted:
        raise DemoFailed(f"{callback.type} came instead of {wanted}: {callback.data['reason']}")
    screen.show_callback(scene.console, callback, (time.monotonic() - sent_at) * 1000)
    return callback


async def _show_row(scene: Scene, query: str, key: str) -> None:
    row = await scene.database.fetchrow(query, key)
    if row is None:
        raise DemoFailed(f"no row for {key}")
    table_name = query.split()[3]
    shown = {name: _readable(value) for name, value in row.items()}
    screen.show_row(scene.console, table_name, shown)


def _readable(value: object) -> object:
    """JSON columns come as text; an empty one says nothing."""
    return None if value in ("{}", json.dumps(None)) else value

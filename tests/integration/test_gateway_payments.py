"""Payments at the gateway on real servers: what the worker has written is shown, what is paid lies in the queue."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg
import httpx
import pytest
import pytest_asyncio
import stripe

from ops.local_stack.processes import Name, Process, Processes
from shared.commands import body_hash, parse_command
from shared.ids import NAMESPACE
from shared.topology import PAYMENT_COMMANDS
from tests.servers import REPOSITORY, House
from tests.unit.gateway.fakes import PATHS
from tests.unit.gateway.test_bad_input import problem
from tests.unit.gateway.test_payments import LINK, PAYMENT
from tests.unit.gateway.test_webhooks import CHECKOUT, TRIMMED
from tests.wire import Wire, open_wire

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEYS = {
    "app-key": ("app", "sessions"), "payer-key": ("app", "payments"), "other-key": ("other", "sessions,payments"),
    "boss-key": ("boss", "operator"),
}  # fmt: skip
SECRET = "whsec_integration"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """A gateway with API keys and the sandbox, under its own least-privilege logins; no worker runs."""
    keys = Path(tmp_path_factory.mktemp("keys")) / "keys"
    lines = (f"{name} {hashlib.sha256(key.encode()).hexdigest()} {scopes}" for key, (name, scopes) in KEYS.items())
    keys.write_text("\n".join(lines))
    return await processes.start(Name.GATEWAY, API_KEYS_FILE=str(keys))


@pytest.fixture
async def client(gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=40, trust_env=False) as opened:
        yield opened


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    async with open_wire(house.amqp_url) as opened:
        while await opened.depth(PAYMENT_COMMANDS):
            await opened.get(PAYMENT_COMMANDS)
        yield opened


@pytest.fixture
async def database(house: House) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("TRUNCATE charging_sessions, inbox, sandbox_links CASCADE")
    yield connection
    await connection.close()


def key(name: str) -> dict[str, str]:
    return {"X-API-Key": name}


async def put_session(database: asyncpg.Connection, payment: dict[str, Any] | None, client: str = "app") -> UUID:
    session_id = uuid4()
    await database.execute(
        """INSERT INTO charging_sessions (id, "chargerId", status, phase, "finalCost", currency, "startedAt", "endedAt",
                                          "createdAt", "updatedAt", client, sequence, payment)
           VALUES ($1, $2, 'COMPLETED', 'COMPLETED', 12.34, 'EUR', $3, $3, $3, $3, $4, 2, $5)""",
        session_id, str(session_id), NOW, client, None if payment is None else json.dumps(payment),
    )  # fmt: skip
    return session_id


async def put_sandbox_link(database: asyncpg.Connection, **changes: Any) -> str:
    link_id = f"sbx_{uuid4().hex}"
    values = {
        "id": link_id, "idempotencyKey": link_id, "reference": str(uuid4()), "description": "Charging at <CHARGER>",
        "amountMinor": 1234, "currency": "EUR", "status": "open", "expiresAt": datetime.now(UTC) + timedelta(hours=1),
        "createdAt": NOW,
    }  # fmt: skip
    values |= changes
    names, places = ", ".join(f'"{name}"' for name in values), ", ".join(f"${n + 1}" for n in range(len(values)))
    await database.execute(f"INSERT INTO sandbox_links ({names}) VALUES ({places})", *values.values())
    return link_id


async def test_a_session_shows_its_payment_alone_and_in_the_list(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """As the worker wrote it; a record for OCPI has no place for it."""
    session_id = await put_session(database, PAYMENT)
    read = (await client.get(f"/api/v1/session/{session_id}", headers=key("app-key"))).json()
    (listed,) = (await client.get("/api/v1/session", headers=key("app-key"))).json()["items"]
    exported = await client.get(f"/api/v1/session/{session_id}/cdr", headers=key("app-key"))
    assert read["payment"] == listed["payment"] == PAYMENT
    assert exported.status_code == 200
    assert "payment" not in exported.text
    assert exported.json()["cdr"]["total_cost"]["incl_vat"] == 12.34


async def test_the_link_is_its_clients_alone(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    """By a key with either scope, or an operator's; to anybody else it is not there."""
    path = f"/api/v1/payment/link/{await put_session(database, PAYMENT)}"
    for name in ("app-key", "payer-key", "boss-key"):
        answer = await client.get(path, headers=key(name))
        assert answer.status_code == 200
        assert answer.json() == {"sessionId": path.rpartition("/")[2]} | LINK
    problem(await client.get(path, headers=key("other-key")), 404, "not-found")
    problem(await client.get(path), 401, "unauthenticated")


@pytest.mark.parametrize("payment", [None, PAYMENT | {"status": "NOT_REQUIRED", "link": None}])
async def test_a_session_without_a_link_has_none_to_show(
    client: httpx.AsyncClient, database: asyncpg.Connection, payment: dict[str, Any] | None
) -> None:
    """No debt, or a link that is only being made; or no session, as far as the caller may know."""
    session_id = await put_session(database, payment)
    for each, name, detail in (
        (session_id, "boss-key", "The session has no payment link: nothing is owed, or it is being made."),
        (session_id, "other-key", "Nothing is known of this id, or not yet."),
        (uuid4(), "boss-key", "Nothing is known of this id, or not yet."),
    ):
        answer = await client.get(f"/api/v1/payment/link/{each}", headers=key(name))
        assert problem(answer, 404, "not-found")["detail"] == detail


async def end_next(wire: Wire, database: asyncpg.Connection, outcome: str, reason: str | None) -> dict[str, Any]:
    """Do what the payments consumer does with the next command; return its body."""
    message = await wire.get(PAYMENT_COMMANDS)
    body: dict[str, Any] = json.loads(message.body)
    await database.execute(
        "INSERT INTO inbox VALUES ($1, $2, $3, $4, $5, $6, $7)",
        UUID(message.message_id), message.type, body_hash(parse_command(message.body, str(message.type))), uuid4(),
        outcome, reason, NOW,
    )  # fmt: skip
    return body


def waiting(client: httpx.AsyncClient, name: str, session_id: UUID) -> "asyncio.Task[httpx.Response]":
    headers = {"Prefer": "wait=20", **key("payer-key")}
    return asyncio.create_task(client.post(PATHS[name], json={"sessionId": str(session_id)}, headers=headers))


async def test_who_waits_for_a_new_link_gets_the_link(
    client: httpx.AsyncClient, wire: Wire, database: asyncpg.Connection
) -> None:
    """200 as a GET shows it. A session without one, such as another client's, has the plain acknowledgement."""
    session_id = await put_session(database, PAYMENT)
    asked = waiting(client, "recreate", session_id)
    assert await end_next(wire, database, "APPLIED", None) == {"sessionId": str(session_id), "force": False}
    answer = await asked
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    assert answer.json() == {"sessionId": str(session_id)} | LINK
    asked = waiting(client, "recreate", await put_session(database, PAYMENT, "other"))
    await end_next(wire, database, "APPLIED", None)
    answer = await asked
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_who_waits_for_a_refund_gets_the_session(
    client: httpx.AsyncClient, wire: Wire, database: asyncpg.Connection
) -> None:
    refunded = PAYMENT | {"status": "REFUNDED", "paidAmount": "12.34", "refundedAmount": "12.34"}
    session_id = await put_session(database, refunded)
    asked = waiting(client, "refund", session_id)
    assert await end_next(wire, database, "APPLIED", None) == {"sessionId": str(session_id)}
    answer = await asked
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    assert answer.json() == (await client.get(f"/api/v1/session/{session_id}", headers=key("app-key"))).json()
    assert answer.json()["payment"] == refunded


@pytest.mark.parametrize(
    ("name", "reason", "word"), [("recreate", "ALREADY_PAID", "already paid"), ("refund", "NOT_PAID", "Nothing")]
)
async def test_a_refused_payment_command_is_a_409(
    client: httpx.AsyncClient, wire: Wire, database: asyncpg.Connection, name: str, reason: str, word: str
) -> None:
    asked = waiting(client, name, await put_session(database, PAYMENT))
    await end_next(wire, database, "REFUSED", reason)
    content = problem(await asked, 409, "refused")
    assert content["reason"] == reason
    assert word in content["detail"]


async def test_a_driver_pays_on_the_page(client: httpx.AsyncClient, wire: Wire, database: asyncpg.Connection) -> None:
    """The button's event lies in the queue; the page says so until the worker has written the result."""
    link_id = await put_sandbox_link(database)
    path = f"/sandbox/pay/{link_id}"
    page = await client.get(path)
    assert "12.34 <small>EUR</small>" in page.text
    assert "&lt;CHARGER&gt;" in page.text
    pressed = await client.post(path, data={"action": "pay"}, follow_redirects=True)
    assert (pressed.status_code, str(pressed.url)) == (200, f"{client.base_url}{path}?sent=pay")
    assert "Being processed" in pressed.text
    message = await wire.get(PAYMENT_COMMANDS)
    assert message.type == "payment.provider_event.v1"
    assert message.message_id == str(uuid5(NAMESPACE, f"sandbox event {link_id}.pay"))
    assert json.loads(message.body)["event"] == {"id": f"{link_id}.pay", "type": "link.paid", "linkId": link_id}
    await database.execute("UPDATE sandbox_links SET status = 'paid' WHERE id = $1", link_id)
    assert "✓ Paid" in (await client.get(f"{path}?sent=pay")).text


async def test_a_page_of_no_link_is_not_found(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    page = await client.get("/sandbox/pay/sbx_unknown")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_a_signed_event_of_stripe_lies_in_the_queue(processes: Processes, wire: Wire) -> None:
    """In a process that is configured for it, whose pay pages are then gone; a signature of another is refused."""
    gateway = await processes.start(Name.GATEWAY, PAYMENT_PROVIDER="stripe", STRIPE_WEBHOOK_SECRET=SECRET)
    body = json.dumps(CHECKOUT)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for secret, status in ((SECRET, 200), ("whsec_theirs", 400), (SECRET, 200)):
            signature = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()))
            path, headers = "/api/v1/payment/webhooks/stripe", {"Stripe-Signature": signature}
            assert (await client.post(path, content=body, headers=headers)).status_code == status
        problem(await client.get("/sandbox/pay/sbx_1"), 404, "not-found")
        problem(await client.post("/api/v1/payment/webhooks/sandbox", json={}), 404, "not-found")
    first, second = await wire.get(PAYMENT_COMMANDS), await wire.get(PAYMENT_COMMANDS)
    assert json.loads(first.body) == {"provider": "stripe", "eventId": "evt_1", "event": TRIMMED}
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert first.headers.items() >= {"client": "provider:stripe", "privileged": True}.items()
    assert SECRET not in gateway.log.read_text()
    assert await gateway.stop() == 0


def test_a_gateway_for_stripe_does_not_start_without_its_secret(house: House) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **house.environment, "PAYMENT_PROVIDER": "stripe"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == "STRIPE_WEBHOOK_SECRET: is required with PAYMENT_PROVIDER=stripe\n"

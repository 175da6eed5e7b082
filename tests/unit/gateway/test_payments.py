"""Payments as the gateway sees them: two commands, the current link, and who may ask."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest

from gateway.auth import Scope
from gateway.command_route import CommandRoute
from gateway.commands import COMMANDS
from gateway.database import Database
from gateway.outcomes import End
from gateway.problems import Problem
from gateway.resources import Row
from gateway.waiting import shown
from shared.commands import RecreatePaymentLink, RefundPayment
from shared.errors import Unavailable
from tests.unit.gateway.fakes import BODIES, NO_DATABASE, PATHS, SESSION_ID, FakePublisher, api_key, opened
from tests.unit.gateway.test_bad_input import problem

LINK = {
    "linkId": "0b0c1c4e-8f5e-5a53-9c35-0b7a1f1f3c11", "url": "https://pay.example/x", "amount": "12.34",
    "currency": "EUR", "status": "PENDING", "expiresAt": "2026-05-04T12:00:00.000Z",
}  # fmt: skip
PAYMENT = {
    "status": "PENDING", "amount": "12.34", "currency": "EUR", "paidAmount": "0.00", "refundedAmount": "0.00",
    "provider": "sandbox", "link": LINK,
}  # fmt: skip
LINK_PATH = f"/api/v1/payment/link/{SESSION_ID}"
KEYS = (
    api_key("app-key", "app", Scope.SESSIONS),
    api_key("payer-key", "payer", Scope.PAYMENTS),
    api_key("boss-key", "boss", Scope.OPERATOR),
)


class FakeDatabase(Database):
    """One row, and who asks for it."""

    def __init__(self, row: Row | None = None, fault: Exception | None = None) -> None:
        super().__init__(NO_DATABASE)
        self.row = row
        self.fault = fault
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def read(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        self.asked.append((statement, parameters))
        if self.fault is not None:
            raise self.fault
        return [] if self.row is None else [self.row]


def link_row(**changes: Any) -> Row:
    return {"id": UUID(SESSION_ID), "payment": PAYMENT | {"link": LINK | changes}}


async def get_link(database: Database, key: str = "app-key") -> httpx.Response:
    async with opened(keys=KEYS, database=database) as client:
        return await client.get(LINK_PATH, headers={"X-API-Key": key})


async def test_the_current_link_is_read_by_its_session() -> None:
    answer = await get_link(FakeDatabase(link_row()))
    assert answer.status_code == 200
    assert answer.json() == {"sessionId": SESSION_ID} | LINK


async def test_a_link_that_could_not_be_made_is_shown_without_an_address() -> None:
    answer = await get_link(FakeDatabase(link_row(url=None, status="FAILED")))
    assert (answer.status_code, answer.json()["url"], answer.json()["status"]) == (200, None, "FAILED")


async def test_what_the_worker_adds_to_a_link_is_not_shown_by_itself() -> None:
    """The answer is the contract's keys, whatever the column holds."""
    answer = await get_link(FakeDatabase(link_row(secret="x")))
    assert "secret" not in answer.text


@pytest.mark.parametrize(("key", "client"), [("app-key", "app"), ("payer-key", "payer"), ("boss-key", None)])
async def test_a_client_with_either_scope_sees_its_own_link(key: str, client: str | None) -> None:
    """`sessions` or `payments`; an operator sees everybody's. Nothing found is a 404."""
    database = FakeDatabase()
    problem(await get_link(database, key), 404, "not-found")
    # For the link, then for the session, whose existence is as little for anybody else to know.
    for statement, parameters in database.asked:
        assert parameters.get("client") == client
        assert ("client = :client" in statement) is (client is not None)
    assert ["jsonb_typeof(payment -> 'link') = 'object'" in statement for statement, _ in database.asked] == [
        True,
        False,
    ]


async def test_a_link_is_not_read_without_a_key_or_a_database_or_a_uuid() -> None:
    async with opened(keys=KEYS, database=FakeDatabase(link_row())) as client:
        problem(await client.get(LINK_PATH), 401, "unauthenticated")
        headers = {"X-API-Key": "app-key"}
        problem(await client.get("/api/v1/payment/link/no-uuid", headers=headers), 404, "not-found")
        problem(await client.post(LINK_PATH, headers=headers), 405, "method-not-allowed")
    problem(await get_link(FakeDatabase(fault=Unavailable("down"))), 503, "database-unavailable")


@pytest.mark.parametrize("name", ["recreate", "refund"])
async def test_a_payment_command_needs_the_scope_payments(name: str) -> None:
    publisher = FakePublisher()
    async with opened(publisher, KEYS) as client:
        refused = await client.post(PATHS[name], json=BODIES[name], headers={"X-API-Key": "app-key"})
        taken = [
            await client.post(PATHS[name], json=BODIES[name], headers={"X-API-Key": key})
            for key in ("payer-key", "boss-key")
        ]
    assert "payments" in problem(refused, 403, "forbidden")["detail"]
    assert [answer.status_code for answer in taken] == [202, 202]
    sent = [published.message.headers for published in publisher.published]
    assert sent == [{"client": "payer", "privileged": False}, {"client": "boss", "privileged": True}]


@pytest.mark.parametrize(
    ("name", "body", "published"),
    [
        ("recreate", {}, {"force": False}),
        ("recreate", {"expiresInMinutes": 30, "force": True}, {"expiresInMinutes": 30, "force": True}),
        ("refund", {}, {}),
        ("refund", {"amount": 4.5, "reason": "FAULT"}, {"amount": "4.5", "reason": "FAULT"}),
    ],
)
async def test_a_payment_command_is_published_for_the_payments_queue(
    name: str, body: dict[str, Any], published: dict[str, Any]
) -> None:
    """Its type begins with `payment.`, which is what that queue is bound to; its session is the correlation."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        assert (await client.post(PATHS[name], json=BODIES[name] | body)).status_code == 202
    (outgoing,) = publisher.published
    assert outgoing.routing_key == {"recreate": "payment.recreate_link.v1", "refund": "payment.refund.v1"}[name]
    assert outgoing.message.correlation_id == SESSION_ID
    assert json.loads(outgoing.message.body) == {"sessionId": SESSION_ID} | published


def route_of(path: str) -> CommandRoute:
    return next(route for route in COMMANDS if route.path == path)


async def what_is_shown(name: str, database: Database, end: End) -> dict[str, Any] | None:
    command = RecreatePaymentLink(session_id=UUID(SESSION_ID))
    refund = RefundPayment(session_id=UUID(SESSION_ID))
    caller = KEYS[1].caller
    return await shown(database, route_of(PATHS[name]), command if name == "recreate" else refund, end, caller)


async def test_who_waited_for_a_new_link_is_shown_the_link() -> None:
    """As a GET shows it, and only their own."""
    database = FakeDatabase(link_row())
    assert await what_is_shown("recreate", database, End(is_applied=True)) == {"sessionId": SESSION_ID} | LINK
    assert database.asked[0][1]["client"] == "payer"


async def test_who_waited_for_a_link_that_there_is_not_gets_the_plain_acknowledgement() -> None:
    assert await what_is_shown("recreate", FakeDatabase(), End(is_applied=True)) is None


REASONS = (
    "NOTHING_TO_PAY", "ALREADY_PAID", "PAYMENT_PROCESSING", "NOT_PAID", "AMOUNT_TOO_LARGE", "INVALID_AMOUNT",
    "NOT_COMPLETED", "PAYMENTS_OFF", "OTHER_PROVIDER", "PROVIDER_DECLINED", "LINK_FAILED", "ALREADY_REFUNDED",
    "REFUND_FAILED",
)  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("name", ["recreate", "refund"])
async def test_a_refusal_has_its_reason_and_words_of_its_own(name: str, reason: str) -> None:
    with pytest.raises(Problem) as refused:
        await what_is_shown(name, FakeDatabase(link_row()), End(is_applied=False, reason=reason))
    assert (refused.value.kind.status, refused.value.reason) == (409, reason)
    assert reason not in refused.value.detail


@pytest.mark.parametrize("name", ["recreate", "refund"])
async def test_without_an_outcome_in_time_the_acknowledgement_is_plain(name: str) -> None:
    async with asyncio.timeout(20), opened() as client:
        answer = await client.post(PATHS[name], json=BODIES[name], headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers

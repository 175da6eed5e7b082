"""Callbacks and subscriptions at the gateway, without broker and database: what is published, what is refused."""

import json
from typing import Any

import pytest

from gateway.auth import ANONYMOUS as ANONYMOUS_CALLER
from gateway.auth import Scope
from gateway.callback_reads import CallbackFilter, page_statement
from shared.callback_commands import parse_callback_command
from shared.callbacks import ANONYMOUS, State
from shared.commands import body_hash, canonical_body
from tests.unit.gateway.fakes import FakePublisher, api_key, opened
from tests.unit.gateway.test_bad_input import problem

ID = "0198c0de-0000-7000-8000-000000000001"
REDELIVER = f"/api/v1/callbacks/{ID}/redeliver"
MANY = "/api/v1/callbacks/redeliver"
SUBSCRIPTION = "/api/v1/subscriptions/billing"


async def published(method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Call; return the status, and the body that the callback worker then gets, read as it reads it."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.request(method, path, **options)
    (outgoing,) = publisher.published
    message = outgoing.message
    assert (outgoing.routing_key, outgoing.exchange) == (message.type, "charging.commands")
    command = parse_callback_command(message.body, str(message.type))
    assert canonical_body(command) == message.body
    return answer.status_code, json.loads(message.body)


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"content": b"{"}, {"json": {"callbackId": "another"}}])
async def test_one_callback_is_sent_again_without_a_body(options: dict[str, Any]) -> None:
    """The path names it; the database is away, and the command is acknowledged as ever."""
    assert await published("POST", REDELIVER, **options) == (202, {"callbackId": ID})


@pytest.mark.parametrize("extra", [{}, {"dryRun": False}, {"dryRun": None, "callbackId": "x", "unknown": 1}])
async def test_many_are_sent_again_by_the_filter_alone(extra: dict[str, Any]) -> None:
    """What is no filter is not published, so that one filter is one command."""
    body = {"state": "FAILED", "host": "X.example", "createdFrom": "2026-05-04T14:00:00+02:00"}
    assert await published("POST", MANY, json=body | extra) == (
        202, {"state": "FAILED", "host": "x.example", "createdFrom": "2026-05-04T12:00:00Z"},
    )  # fmt: skip


async def test_a_dry_run_publishes_nothing() -> None:
    """It needs the database."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        problem(await client.post(MANY, json={"state": "FAILED", "dryRun": True}), 503, "database-unavailable")
    assert publisher.published == []


async def test_a_subscription_is_named_by_the_path() -> None:
    body = {"url": "https://x.example/", "types": ["payment.paid"], "name": "another"}
    assert await published("PUT", SUBSCRIPTION, json=body) == (
        202, {"name": "billing", "url": "https://x.example/", "types": ["payment.paid"], "paused": False},
    )  # fmt: skip
    assert await published("DELETE", SUBSCRIPTION) == (202, {"name": "billing"})


async def test_the_workers_hash_is_the_gateways() -> None:
    """By it, who waits finds the outcome."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        await client.put(SUBSCRIPTION, json={"url": "https://x.example/", "types": None})
        await client.put(SUBSCRIPTION, json={"url": "https://x.example/", "paused": False})
    hashes = {
        body_hash(parse_callback_command(each.message.body, str(each.message.type))) for each in publisher.published
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/v1/callbacks/x/redeliver"), ("GET", "/api/v1/callbacks/x"), ("GET", MANY)]
)
async def test_an_id_in_a_path_is_a_uuid(method: str, path: str) -> None:
    """And `redeliver` is a POST and nothing else."""
    async with opened() as client:
        answer = await client.request(method, path)
    problem(answer, *((405, "method-not-allowed") if path == MANY else (404, "not-found")))


@pytest.mark.parametrize(
    ("method", "path", "scope", "allowed"),
    [
        ("POST", REDELIVER, Scope.SESSIONS, True),
        ("POST", MANY, Scope.SESSIONS, False),
        ("POST", MANY, Scope.OPERATOR, True),
        ("PUT", SUBSCRIPTION, Scope.SESSIONS, True),
        ("PUT", SUBSCRIPTION, Scope.PAYMENTS, False),
        ("GET", "/api/v1/callbacks", Scope.PAYMENTS, False),
        ("GET", "/api/v1/subscriptions", Scope.PAYMENTS, False),
    ],
)
async def test_scopes(method: str, path: str, scope: Scope, allowed: bool) -> None:
    """A client's own callbacks and subscriptions need `sessions`, everybody's `operator`."""
    keys, body = (api_key("key", "app", scope),), {"state": "FAILED", "url": "https://x.example/"}
    async with opened(keys=keys) as client:
        answer = await client.request(method, path, json=body, headers={"X-API-Key": "key"})
    assert (answer.status_code != 403) is allowed


def test_each_filter_of_the_log_is_a_condition() -> None:
    """The state is a literal: a plan that is kept must know how rare it is."""
    statement, values = page_statement(CallbackFilter(client="app", state=State.FAILED, limit=20))
    assert statement.endswith("WHERE state = 'FAILED' AND client = :value_1 ORDER BY id DESC LIMIT :limit")
    assert values == {"value_1": "app", "limit": 21}


def test_the_anonymous_caller_has_the_name_that_its_callbacks_are_signed_for() -> None:
    assert ANONYMOUS_CALLER.client == ANONYMOUS

"""Bad input: 400 with the field named, never 422, never 500, and nothing published."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.problems import MEDIA_TYPE
from shared.broker.publisher import Outcome
from tests.unit.gateway.fakes import BODIES, PATHS, SESSION_ID, FakePublisher, opened

JSON = {"content-type": "application/json"}


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Check that the answer is this problem, complete; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    content: dict[str, Any] = answer.json()
    assert content["type"] == f"urn:voltline:problem:{slug}"
    assert content["status"] == status
    assert content["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    assert content["title"]
    assert content["detail"]
    return content


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"\xff\xfe", b'{"chargerId": "\xff"}', b'{"chargerId": "x", "junk": NaN}',
        b'{"chargerId": "x", "metadata": {"a": Infinity}}', b'{"chargerId": "x", "junk": "\\ud800"}',
        b'\xef\xbb\xbf{"chargerId": "x"}', b"[" * 60_000, b'{"a":' * 10_000, b'{"chargerId": "x"} x',
        b'{"chargerId": "x", "metadata": {"n": 1e999}}', b'{"chargerId": "\\u0000"',
    ],
)  # fmt: skip
async def test_what_is_not_json_is_malformed(body: bytes) -> None:
    """Truncated, deeply nested, wrong UTF-8, NaN, lone surrogates: one 400, with the place in words."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.post(PATHS["start"], content=body, headers=JSON)
    content = problem(answer, 400, "malformed-body")
    assert content["errors"] == [{"pointer": "", "detail": content["detail"]}]
    assert publisher.published == []


@pytest.mark.parametrize("body", ["[]", "null", "5", '"text"', "true"])
async def test_json_that_is_no_object_is_invalid(body: str) -> None:
    """The fault is the whole body's: the empty pointer."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], content=body, headers=JSON)
    assert problem(answer, 400, "invalid-body")["errors"][0]["pointer"] == ""


@pytest.mark.parametrize(
    ("name", "change", "pointer"),
    [
        ("start", {"chargerId": None}, "/chargerId"),
        ("start", {"chargerId": 5}, "/chargerId"),
        ("start", {"chargerId": ""}, "/chargerId"),
        ("start", {"chargerId": "x" * 256}, "/chargerId"),
        ("start", {"chargerId": " x"}, "/chargerId"),
        ("start", {"chargerId": "a\nb"}, "/chargerId"),
        ("start", {"connectorId": "x" * 37}, "/connectorId"),
        ("start", {"metadata": []}, "/metadata"),
        ("start", {"metadata": {"a": "x" * 16_384}}, "/metadata"),
        ("start", {"metadata": {"a": "\0"}}, "/metadata"),
        ("request", {"stationId": ...}, "/stationId"),
        ("request", {"driverId": ...}, "/driverId"),
        ("request", {"callbackUrl": ...}, "/callbackUrl"),
        ("request", {"callbackUrl": "ftp://host/"}, "/callbackUrl"),
        ("request", {"callbackUrl": "/relative"}, "/callbackUrl"),
        ("request", {"callbackUrl": "https://user:secret@host/"}, "/callbackUrl"),
        ("request", {"callbackUrl": "https://host/#part"}, "/callbackUrl"),
        ("request", {"callbackUrl": "https://host/" + "x" * 2048}, "/callbackUrl"),
        ("stop", {"sessionId": "no-uuid"}, "/sessionId"),
        ("stop", {"sessionId": 5}, "/sessionId"),
        ("stop", {"energyKwh": -1}, "/energyKwh"),
        ("stop", {"energyKwh": True}, "/energyKwh"),
        ("stop", {"finalCost": "1.234"}, "/finalCost"),
        ("stop", {"finalCost": "NaN"}, "/finalCost"),
        ("stop", {"finalCost": 1e12}, "/finalCost"),
        ("stop", {"endedAt": "2026-01-01T00:00:00"}, "/endedAt"),
        ("stop", {"endedAt": "9999-12-31T23:59:59-14:00"}, "/endedAt"),
        ("cancel", {"reason": ""}, "/reason"),
        ("recreate", {"sessionId": ...}, "/sessionId"),
        ("recreate", {"expiresInMinutes": 29}, "/expiresInMinutes"),
        ("recreate", {"expiresInMinutes": 1436}, "/expiresInMinutes"),
        ("recreate", {"expiresInMinutes": 30.5}, "/expiresInMinutes"),
        ("recreate", {"force": "yes"}, "/force"),
        ("refund", {"sessionId": "no-uuid"}, "/sessionId"),
        ("refund", {"amount": 0}, "/amount"),
        ("refund", {"amount": -1}, "/amount"),
        ("refund", {"amount": "1.234"}, "/amount"),
        ("refund", {"amount": "NaN"}, "/amount"),
        ("refund", {"reason": "a\nb"}, "/reason"),
    ],
)
async def test_an_invalid_field_is_named_by_json_pointer(name: str, change: dict[str, Any], pointer: str) -> None:
    """400, the pointer in `errors` and in the sentence; nothing is published."""
    body = {key: value for key, value in (BODIES[name] | change).items() if value is not ...}
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.post(PATHS[name], content=json.dumps(body), headers=JSON)
    content = problem(answer, 400, "invalid-body")
    assert [fault["pointer"] for fault in content["errors"]] == [pointer]
    assert pointer in content["detail"]
    assert publisher.published == []


async def test_every_fault_of_a_body_is_named_at_once() -> None:
    """Nobody should learn of the second fault by mending the first."""
    async with opened() as client:
        answer = await client.post(PATHS["request"], json={"stationId": 5, "callbackUrl": "x"})
    errors = problem(answer, 400, "invalid-body")["errors"]
    assert {fault["pointer"] for fault in errors} == {"/stationId", "/driverId", "/callbackUrl"}


async def test_only_camel_case_is_understood() -> None:
    """The wire is camelCase: Python's names are unknown keys."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], json={"charger_id": "x"})
    assert problem(answer, 400, "invalid-body")["errors"][0]["pointer"] == "/chargerId"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_another_media_type_is_refused(headers: dict[str, str]) -> None:
    """415 says what to send instead."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], content=b'{"chargerId": "x"}', headers=headers)
    problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json; charset=utf-8"}, {"content-type": "application/vnd.x+json"}]
)
async def test_json_under_its_other_names_is_taken(headers: dict[str, str]) -> None:
    """Parameters, `+json` types, and no header at all."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], content=b'{"chargerId": "x"}', headers=headers)
    assert answer.status_code == 202


async def test_a_body_over_64_kib_is_refused_however_it_comes() -> None:
    """With its length announced, in chunks without a length, and with a length that lies."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1024

    async with opened() as client:
        announced = await client.post(PATHS["start"], content=b" " * 65_537, headers=JSON)
        chunked = await client.post(PATHS["start"], content=chunks(), headers=JSON)
        lying = await client.post(PATHS["start"], content=chunks(), headers=JSON | {"content-length": "10"})
        longest = await client.post(PATHS["start"], content=b'{"chargerId": "x"}'.ljust(65_536), headers=JSON)
    for answer in (announced, chunked, lying):
        problem(answer, 413, "body-too-large")
    assert longest.status_code == 202


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and the connection ends: a caller who drips bytes holds nothing for long."""
    monkeypatch.setattr("gateway.incoming.BODY_TIMEOUT_S", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with opened() as client:
        answer = await client.post(PATHS["start"], content=never(), headers=JSON)
    problem(answer, 408, "request-timeout")
    assert answer.headers["connection"] == "close"


async def test_unknown_paths_and_methods_are_problems_too() -> None:
    """404 and 405 with Allow; an id that is no UUID is an unknown path."""
    async with opened() as client:
        for path in ("/", "/api/v1/nothing", "/api/v1/session/no-uuid", "/api/v1/session/", "/api/assets/x", "/%ff"):
            problem(await client.get(path), 404, "not-found")
        for method, path, allowed in (
            ("GET", PATHS["start"], "POST"),
            ("DELETE", PATHS["request"], "POST"),
            ("POST", "/api/v1/session", "GET"),
            ("PUT", f"/api/v1/session/{SESSION_ID}", "GET"),
        ):
            answer = await client.request(method, path)
            problem(answer, 405, "method-not-allowed")
            assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=101", "limit=x", "limit=", "status=DONE", "status=", "chargerId=", "driverId=%00",
        "cursor=", "cursor=x", "cursor=ü", "cursor=" + "A" * 31, "cursor=" + "A" * 36, "cursor=" + "f" * 32,
    ],
)  # fmt: skip
async def test_a_bad_query_names_its_parameter(query: str) -> None:
    """400, never 422; a cursor is either one that the list gave or a fault."""
    async with opened() as client:
        answer = await client.get(f"/api/v1/session?{query}")
    content = problem(answer, 400, "invalid-parameter")
    name = query.partition("=")[0]
    assert [fault["parameter"] for fault in content["errors"]] == [name]
    assert name in content["detail"]


async def test_an_unforeseen_fault_tells_nothing_of_itself() -> None:
    """500 without the reason; the log has it."""

    class Broken(FakePublisher):
        async def publish(self, *_: Any, **__: Any) -> list[Outcome]:
            raise RuntimeError("secret of the house")

    async with opened(Broken(), raise_app_exceptions=False) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"])
    problem(answer, 500, "internal-error")
    assert "secret" not in answer.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=12), children, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "chargerId", "connectorId", "driverId", "stationId", "callbackUrl", "metadata", "sessionId", "requestId",
    "energyKwh", "finalCost", "endedAt", "reason", "expiresInMinutes", "force", "amount",
)  # fmt: skip
some_bodies = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)).map(json.dumps)


def test_no_body_whatsoever_is_a_fault_of_ours() -> None:
    """Any bytes: an acknowledgement or a 400, and only an acknowledged command was published."""
    publisher = FakePublisher()
    gateway = opened(publisher)

    with asyncio.Runner() as runner:
        client = runner.run(gateway.__aenter__())

        @settings(max_examples=300)
        @given(body=st.binary(max_size=200) | some_bodies.map(str.encode), name=st.sampled_from(sorted(PATHS)))
        def post(body: bytes, name: str) -> None:
            publisher.published.clear()
            answer = runner.run(client.post(PATHS[name], content=body, headers=JSON))
            assert answer.status_code in (200, 202, 400)
            assert len(publisher.published) == (1 if answer.is_success else 0)

        post()
        runner.run(gateway.__aexit__(None, None, None))

"""What a POST answers and publishes when all is well: the seeds, byte for byte."""

import json
import re
from uuid import UUID

import pytest

from shared.ids import idempotent_id
from tests.unit.gateway.fakes import BODIES, PATHS, REQUEST_BODY, SESSION_ID, FakePublisher, opened

# Copied from the two documents that the product was ordered by.
SEED_REQUEST_ANSWER = b"""{
  "status": "acknowledged",
  "message": "Charging Session request received"
}"""
SEED_START_ANSWER = """{
  "success": true,
  "sessionId": "%s",
  "chargerId": %s,
  "message": "Charging session started successfully"
}"""


async def test_a_request_is_answered_with_the_seeds_bytes() -> None:
    """200, exactly the seed's two keys as the seed prints them, and where to read the decision."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.post(PATHS["request"], json=REQUEST_BODY)
    (published,) = publisher.published
    assert (answer.status_code, answer.content) == (200, SEED_REQUEST_ANSWER)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"/api/charging-session-requests/{published.message.message_id}"


@pytest.mark.parametrize("charger_id", ["CHARGER-001", 'say "hi" \\ back', "Zürich-⚡"])
async def test_a_start_is_answered_with_the_seeds_four_keys(charger_id: str) -> None:
    """202 in the seed's form; whatever a charger is called, the answer is JSON."""
    async with opened() as client:
        answer = await client.post(PATHS["start"], json={"chargerId": charger_id})
    session_id = answer.json()["sessionId"]
    assert answer.status_code == 202
    assert answer.text == SEED_START_ANSWER % (session_id, json.dumps(charger_id, ensure_ascii=False))
    assert answer.headers["location"] == f"/api/v1/session/{session_id}"
    assert UUID(session_id).version == 7


@pytest.mark.parametrize("name", ["stop", "cancel", "meter", "recreate", "refund"])
async def test_what_is_about_a_session_names_it_in_its_answer(name: str) -> None:
    """202 with success, sessionId and message; they make nothing new, so there is no Location."""
    async with opened() as client:
        answer = await client.post(PATHS[name], json=BODIES[name])
    assert answer.status_code == 202
    assert list(answer.json()) == ["success", "sessionId", "message"]
    assert answer.json()["sessionId"] == SESSION_ID
    assert answer.text.startswith('{\n  "success": true,\n  "sessionId"')
    assert "location" not in answer.headers


async def test_the_message_carries_what_the_worker_needs() -> None:
    """Type, routing key, ids, client and privilege; the body is the REST body plus the id that the gateway gave."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        await client.post(PATHS["request"], json=REQUEST_BODY | {"unknown": 1})
    (published,) = publisher.published
    message = published.message
    assert (published.exchange, published.routing_key, published.mandatory) == (
        "charging.commands", "session.request.v1", True,
    )  # fmt: skip
    assert json.loads(message.body) == REQUEST_BODY | {"requestId": message.message_id}
    assert (message.type, message.content_type) == ("session.request.v1", "application/json")
    assert message.correlation_id == message.message_id
    assert message.headers == {"client": "anonymous", "privileged": True}
    assert message.timestamp is not None


@pytest.mark.parametrize(("name", "key"), [("request", "requestId"), ("start", "sessionId")])
@pytest.mark.parametrize("sent", [SESSION_ID, 5, None, {"a": []}])
async def test_an_id_that_the_client_sends_is_an_unknown_key(name: str, key: str, sent: object) -> None:
    """The gateway names requests and sessions; nobody can take another's id, and nonsense there is no fault."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.post(PATHS[name], json=BODIES[name] | {key: sent})
    message = publisher.published[0].message
    assert answer.is_success
    assert json.loads(message.body)[key] == message.message_id != SESSION_ID


async def test_the_same_idempotency_key_always_gives_the_same_ids() -> None:
    """Per client; another key, or none, gives another id."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        for key in ("once", "once", "twice"):
            await client.post(PATHS["start"], json=BODIES["start"], headers={"Idempotency-Key": key})
    first, second, third = (published.message.message_id for published in publisher.published)
    assert first == second == str(idempotent_id("anonymous", "once"))
    assert third != first


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ümlaut"])
async def test_an_unusable_idempotency_key_is_refused(key: str) -> None:
    """1 to 255 printable characters; a cut or altered key could stand for two commands."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        headers = [(b"idempotency-key", key.encode("latin-1"))]
        answer = await client.post(PATHS["start"], json=BODIES["start"], headers=headers)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
    assert publisher.published == []


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ({"traceparent": TRACE, "tracestate": "a=1"}, {"traceparent": TRACE, "tracestate": "a=1"}),
        ({"traceparent": TRACE}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": "x" * 600}, {"traceparent": TRACE}),
        ({"traceparent": TRACE.upper()}, {}),
        ({"traceparent": re.sub("[1-9a-f]", "0", TRACE)}, {}),
        ({"traceparent": "ff" + TRACE[2:]}, {}),
        ({"tracestate": "a=1"}, {}),
    ],
)
async def test_only_a_sane_trace_context_is_passed_on(sent: dict[str, str], passed: dict[str, str]) -> None:
    """W3C Trace Context; what is malformed is dropped, never a reason to refuse."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"], headers=sent)
    headers = publisher.published[0].message.headers
    assert answer.status_code == 202
    assert {name: value for name, value in headers.items() if name.startswith("trace")} == passed

"""A dead letter carries what came, and the reason; it never makes the broker act."""

from datetime import UTC, datetime

from shared.broker.dead_letters import dead_letter
from shared.broker.properties import properties
from shared.errors import RejectCode, Rejected
from shared.messages import Message
from shared.topology import QUEUES
from tests.builders import NOW, inbound

REJECTED = Rejected(RejectCode.NOT_JSON, "body: expected value")


def letter_of(**changes: object) -> Message:
    message = inbound(b"{nope", **changes)
    return dead_letter(message, "session_worker.commands", REJECTED, failed_by="session_worker", now=NOW).message


def test_body_and_properties_are_as_they_came() -> None:
    sent = {
        "message_id": "m-1",
        "type": "session.start.v1",
        "content_type": "text/plain",
        "correlation_id": "c-1",
        "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
        "headers": {"traceparent": "00-x", "n": 5},
        "other": {"app_id": "partner", "reply_to": "somewhere"},
    }
    letter = letter_of(message=sent)
    assert letter.body == b"{nope"
    for name in ("message_id", "type", "content_type", "correlation_id", "timestamp", "other"):
        assert getattr(letter, name) == sent[name]
    assert letter.headers["traceparent"] == "00-x"
    assert letter.headers["n"] == 5


def test_the_reason_stands_in_four_headers() -> None:
    headers = letter_of().headers
    assert headers["error"] == "not_json"
    assert headers["error-detail"] == "body: expected value"
    assert headers["failed-by"] == "session_worker"
    assert headers["failed-at"] == "2026-05-04T12:00:00.000Z"


def test_what_the_broker_would_act_on_is_kept_under_another_name() -> None:
    letter = letter_of(
        message={
            "user_id": "roaming",
            "headers": {"CC": ["elsewhere"], "x-death": [{"count": 9}], "bcc": []},
            "other": {"expiration": "60000"},
        }
    )
    assert letter.user_id is None
    assert not {"CC", "bcc", "x-death"} & letter.headers.keys()
    assert letter.headers["original-CC"] == ["elsewhere"]
    assert letter.headers["original-user-id"] == "roaming"
    assert letter.headers["original-expiration"] == "60000"
    assert properties(letter).expiration is None


def test_headers_that_fit_no_frame_are_left_out_and_it_says_so() -> None:
    letter = letter_of(message={"headers": {"big": "x" * 120_000}})
    assert letter.headers["original-headers"] == "left out: too large"
    assert letter.headers["error"] == "not_json"


def test_a_message_without_an_id_gets_none() -> None:
    letter = letter_of(message={"message_id": None})
    assert properties(letter).message_id == ""


def test_no_queue_is_left_to_the_brokers_own_delivery_limit() -> None:
    """RabbitMQ 4 deletes at the 21st delivery where there is none, and each look at a dead letter is one."""
    assert [queue.name for queue in QUEUES if queue.arguments.get("x-delivery-limit", 0) in range(100)] == []

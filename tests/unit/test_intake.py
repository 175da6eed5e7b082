"""What the session worker makes of a message, or why it rejects it."""

import json
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.intake import receive
from shared.commands import RequestSession, StartSession
from shared.errors import RejectCode, Rejected
from shared.messages import MAX_BODY_BYTES
from shared.topology import COMMANDS, PARTNERS
from tests.builders import NOW, inbound

START = b'{"chargerId": "CHARGER-001"}'


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (inbound(b"{nope"), RejectCode.NOT_JSON),
        (inbound(b"\xff\xfe"), RejectCode.NOT_JSON),
        (inbound(b'{"metadata":' * 500), RejectCode.NOT_JSON),
        (inbound(b"[]"), RejectCode.SCHEMA_VIOLATION),
        (inbound(b'{"chargerId": 5}'), RejectCode.SCHEMA_VIOLATION),
        (inbound(b"{}", routing_key="session.unheard.v1"), RejectCode.UNKNOWN_TYPE),
        (inbound(START, routing_key="session.start.v2"), RejectCode.UNKNOWN_TYPE),
        (inbound(START, message={"message_id": None}), RejectCode.NO_MESSAGE_ID),
        (inbound(START, message={"message_id": "not a uuid"}), RejectCode.NO_MESSAGE_ID),
        (inbound(b" " * (MAX_BODY_BYTES + 1)), RejectCode.TOO_LARGE),
        (inbound(START, unreadable=b"\x00"), RejectCode.UNREADABLE_PROPERTIES),
    ],
    ids=lambda value: str(value) if isinstance(value, RejectCode) else "message",
)
def test_what_cannot_be_understood_is_rejected_with_a_stable_code(message: object, code: RejectCode) -> None:
    with pytest.raises(Rejected) as caught:
        receive(message, NOW)  # type: ignore[arg-type]
    assert caught.value.code is code


def test_a_rejection_names_every_field_at_fault() -> None:
    body = json.dumps({"chargerId": " ", "callbackUrl": "ftp://x", "metadata": []}).encode()
    with pytest.raises(Rejected) as caught:
        receive(inbound(body), NOW)
    for pointer in ("/chargerId", "/callbackUrl", "/metadata"):
        assert pointer in caught.value.detail


def test_a_start_without_an_id_is_called_by_its_message() -> None:
    message_id = uuid4()
    received = receive(inbound(START, message={"message_id": str(message_id)}), NOW)
    assert received.session_id == message_id
    assert isinstance(received.command, StartSession)
    assert received.command.session_id == message_id


def test_the_property_type_goes_before_the_routing_key() -> None:
    body = b'{"stationId": "S", "driverId": "D", "callbackUrl": "https://a.example/"}'
    received = receive(inbound(body, message={"type": "session.request.v1"}), NOW)
    assert isinstance(received.command, RequestSession)


def test_the_same_meaning_has_the_same_hash_and_another_has_not() -> None:
    message = {"message_id": str(uuid4())}
    one = receive(inbound(b'{"chargerId":"C","unknown":1}', message=message), NOW)
    two = receive(inbound(b'{ "chargerId" : "C" }', message=message), NOW)
    other = receive(inbound(b'{"chargerId":"D"}', message=message), NOW)
    assert one.body_hash == two.body_hash != other.body_hash


def test_a_partner_acts_for_everybody_and_the_gateways_client_for_itself() -> None:
    partner = receive(inbound(START, message={"user_id": "roaming"}), NOW)
    assert (partner.client, partner.privileged) == ("roaming", True)
    headers = {"client": "app", "privileged": False}
    app = receive(inbound(START, exchange="charging.commands", message={"headers": headers}), NOW)
    assert (app.client, app.privileged) == ("app", False)
    pretender = receive(inbound(START, message={"headers": {"client": "somebody"}}), NOW)
    assert pretender.client is None


@pytest.mark.parametrize(
    ("age", "believed"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(minutes=10), timedelta(minutes=10) - timedelta(seconds=1)),
        (timedelta(days=400), timedelta(0)),
        (-timedelta(hours=1), timedelta(0)),
    ],
    ids=["just now", "waited in the queue", "a broken clock", "the future"],
)
def test_a_command_counts_from_when_it_was_accepted(age: timedelta, believed: timedelta) -> None:
    received = receive(inbound(START, message={"timestamp": NOW - age}), NOW)
    assert NOW - received.accepted_at == believed


@pytest.mark.parametrize(("exchange", "believed"), [(COMMANDS, timedelta(hours=1)), (PARTNERS, timedelta(0))])
def test_after_an_outage_of_a_day_only_a_gateways_times_are_believed(exchange: str, believed: timedelta) -> None:
    """Else a session that was begun and stopped meanwhile lasts no time."""
    first, last = (
        receive(inbound(START, exchange=exchange, message={"timestamp": NOW - timedelta(hours=hours)}), NOW)
        for hours in (26, 25)
    )
    assert last.accepted_at - first.accepted_at == believed


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["chargerId", "metadata", "callbackUrl", "sessionId"]) | st.text(), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_body_is_either_understood_or_rejected(body: bytes) -> None:
    try:
        received = receive(inbound(body), NOW)
    except Rejected:
        return
    assert isinstance(received.session_id, UUID)


def test_names_on_the_wire_are_camel_case_alone() -> None:
    with pytest.raises(Rejected, match="/chargerId"):
        receive(inbound(b'{"charger_id": "C"}'), NOW)


SESSION = "123e4567-e89b-12d3-a456-426614174000"


@pytest.mark.parametrize(
    ("ended_at", "is_taken"),
    [
        ("2026-05-04T12:00:00Z", True),
        ("2026-05-04t12:00:00.123456+02:00", True),
        ("2026-05-04T12:00:00", False),
        ("1700000000", False),
        (1700000000, False),
        ("0001-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59Z", False),
        ("2026-02-30T00:00:00Z", False),
        ("２026-05-04T12:00:00Z", False),
    ],
)
def test_a_time_is_rfc_3339_and_of_this_century(ended_at: object, is_taken: bool) -> None:
    body = json.dumps({"sessionId": SESSION, "endedAt": ended_at}).encode()
    message = inbound(body, routing_key="session.stop.v1")
    if is_taken:
        receive(message, NOW)
    else:
        with pytest.raises(Rejected, match="/endedAt"):
            receive(message, NOW)


@pytest.mark.parametrize("energy", ["0.30000000000000004", 0.1 + 0.2, "0.3", "0.30", 0.3])
def test_equal_amounts_have_equal_hashes(energy: object) -> None:
    """A float sum is rounded, not refused; how a number is spelled is not what it means."""
    message = {"message_id": SESSION}
    plain = json.dumps({"sessionId": SESSION, "energyKwh": 0.3}).encode()
    odd = json.dumps({"energyKwh": energy, "sessionId": SESSION}).encode()
    known = receive(inbound(plain, routing_key="session.stop.v1", message=message), NOW)
    assert receive(inbound(odd, routing_key="session.stop.v1", message=message), NOW).body_hash == known.body_hash

"""The decoder of AMQP properties never raises: what it cannot read it hands on."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.frame import unmarshal
from pamqp.header import ContentHeader

from shared.broker.properties import Unreadable, install_tolerant_decoder

install_tolerant_decoder()


def frame(properties: bytes, body_size: int = 5) -> bytes:
    """A content header frame on channel 1."""
    payload = struct.pack(">HHQ", 60, 0, body_size) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


def nested_table(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return b"\x20\x00" + struct.pack(">I", len(table)) + table


@pytest.mark.parametrize(
    "properties",
    [
        b"\x00\x40" + (2**62).to_bytes(8, "big"),
        b"\x04\x00\x02\xff\xfe",
        b"\x20\x00\x00\x00\x00\x03\x01aQ",
        nested_table(9000),
        b"\x80",
        b"",
    ],
    ids=["timestamp of 2^62", "text that is not UTF-8", "unknown field type", "deep nesting", "cut flags", "nothing"],
)
def test_properties_that_break_the_library_are_kept_raw(properties: bytes) -> None:
    """On the wire these drop the connection; the broker then redelivers them for ever."""
    _, _, header = unmarshal(frame(properties))
    assert isinstance(header, ContentHeader)
    assert header.body_size == 5
    assert isinstance(header.properties, Unreadable)
    assert header.properties.raw == properties


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_kept_raw(properties: bytes) -> None:
    _, _, header = unmarshal(frame(properties))
    assert isinstance(header, ContentHeader)


def test_good_properties_are_decoded_as_ever() -> None:
    _, _, header = unmarshal(frame(Basic.Properties(message_id="m", headers={"a": 1}).marshal()))
    assert isinstance(header, ContentHeader)
    assert (header.properties.message_id, header.properties.headers) == ("m", {"a": 1})


def test_a_fetched_messages_routing_key_may_be_any_bytes() -> None:
    """A person who looks at `unrouted` fetches what partners shaped."""
    payload = struct.pack(">HHQB", 60, 71, 7, 1) + b"\x01e" + b"\x03k.\xff" + struct.pack(">I", 5)
    _, _, fetched = unmarshal(struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce")
    assert isinstance(fetched, Basic.GetOk)
    assert (fetched.delivery_tag, fetched.redelivered, fetched.exchange) == (7, True, "e")
    assert (fetched.routing_key, fetched.message_count) == ("k.\udcff", 5)

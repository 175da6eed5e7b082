"""Signatures, against the published vector and the official library."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from callback_worker.signature import SigningKey, parse_key, signature

VECTOR_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def whsec(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


def test_the_published_vector_is_met() -> None:
    """Standard Webhooks 1.0."""
    signed = signature(
        [parse_key(VECTOR_KEY)],
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=b'{"test": 2432232314}',
    )  # fmt: skip
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3), content=st.text())
def test_the_official_library_verifies_with_every_live_key(keys: list[bytes], content: str) -> None:
    """One entry per key, so a receiver may hold the old or the new one."""
    body = ('{"x": ' + base64.b64encode(content.encode(errors="replace")).hex().join('""') + "}").encode()
    timestamp = int(datetime.now(UTC).timestamp())
    signed = signature([SigningKey(key) for key in keys], webhook_id="id-1", timestamp=timestamp, body=body)
    assert len(signed.split(" ")) == len(keys)
    headers = {"webhook-id": "id-1", "webhook-timestamp": str(timestamp), "webhook-signature": signed}
    for key in keys:
        Webhook(whsec(key)).verify(body, headers)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "begin with whsec_"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!w", "not base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "not base64"),
        ("whsec_ü", "not base64"),
        (whsec(b"k" * 23), "23 bytes"),
        (whsec(b"k" * 65), "65 bytes"),
        ("whsec_", "0 bytes"),
    ],
)
def test_a_bad_key_is_refused_without_being_repeated(text: str, fault: str) -> None:
    """Strict base64, 24 to 64 bytes; the sentence may end up in a log."""
    with pytest.raises(ValueError, match=fault) as caught:
        parse_key(text)
    assert text not in str(caught.value)


def test_a_key_does_not_show_itself() -> None:
    """Settings are printed somewhere, some day."""
    key = parse_key(VECTOR_KEY)
    assert repr(key) == "SigningKey()"
    assert len(key.secret) == 24

"""Signatures, against the published vector and the official library."""

import base64
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from callback_worker.settings import CallbackWorkerSettings
from callback_worker.signature import Signer, signature
from shared.signing_keys import SigningKey, keys_of, parse_key
from shared.signing_pair import PUBLIC_PREFIX, SigningPair, parse_pair

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


def test_a_client_has_a_key_of_its_own_for_every_live_key() -> None:
    """As documented, so that anybody may derive it: HMAC-SHA256 over the context and the name; newest first."""
    masters = [SigningKey(b"n" * 32), SigningKey(b"o" * 32)]
    wanted = [hmac.digest(key.secret, b"voltline callback key v1\napp", "sha256") for key in masters]
    assert [key.secret for key in keys_of("app", masters)] == wanted
    assert keys_of("app2", masters)[0] != keys_of("app", masters)[0]
    assert {len(key.secret) for key in keys_of("Zürich", masters)} == {32}


@pytest.mark.parametrize("client", [None, "", "anonymous"])
def test_what_belongs_to_no_named_client_is_signed_with_the_master_keys(client: str | None) -> None:
    """A gateway without a key file has one kind of caller, and its operator holds the keys."""
    masters = (SigningKey(b"n" * 32), SigningKey(b"o" * 32))
    assert keys_of(client, masters) == masters


def test_a_named_client_verifies_with_its_own_key_and_the_operator_with_the_master() -> None:
    """Nobody does with another client's."""
    master = parse_key(VECTOR_KEY)
    now = int(datetime.now(UTC).timestamp())
    signed = Signer((master,)).sign("app", webhook_id="id-1", timestamp=now, body=b"{}")
    headers = {"webhook-id": "id-1", "webhook-timestamp": str(now), "webhook-signature": signed}
    for key in (master.of_client("app"), master):
        Webhook(key.text()).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(master.of_client("other").text()).verify(b"{}", headers)


def test_a_key_pair_signs_beside_the_keys_and_each_client_has_its_own() -> None:
    """What verifies for one client does not for another, so nobody can hand a callback on as his own."""
    pair, now = SigningPair(b"s" * 32), 1614265330
    signer = Signer((parse_key(VECTOR_KEY),), pair)
    signed = {client: signer.sign(client, webhook_id="id-1", timestamp=now, body=b"{}") for client in (None, "a", "b")}
    for client, header in signed.items():
        *symmetric, second = header.split(" ")
        assert {entry[:3] for entry in symmetric} == {"v1,"}
        assert second[:4] == "v1a,"
        content, mine = b"id-1.1614265330.{}", base64.b64decode(second[4:])
        public_of(pair.of_client(client)).verify(mine, content)
        for other in signed.keys() - {client}:
            with pytest.raises(InvalidSignature):
                public_of(pair.of_client(other)).verify(mine, content)


def public_of(pair: SigningPair) -> Ed25519PublicKey:
    """The public key, out of its text."""
    text = pair.public_text()
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(PUBLIC_PREFIX)))


def test_a_pair_is_read_with_and_without_its_public_key() -> None:
    """The specification's private keys hold both; one that does not belong to the seed is a fault."""
    pair = SigningPair(b"s" * 32)
    public = base64.b64decode(pair.public_text().removeprefix(PUBLIC_PREFIX))
    assert parse_pair("whsk_" + base64.b64encode(pair.seed).decode()) == pair
    assert parse_pair("whsk_" + base64.b64encode(pair.seed + public).decode()) == pair
    for secret, fault in ((b"s" * 31, "31 bytes"), (pair.seed + b"x" * 32, "not the seed's")):
        with pytest.raises(ValueError, match=fault):
            parse_pair("whsk_" + base64.b64encode(secret).decode())
    assert repr(pair) == "SigningPair()"


def test_a_bad_pair_stops_the_start_without_being_repeated() -> None:
    """Off by default; as with the keys, the sentence may end up in a log."""
    settings: dict[str, Any] = {
        "database_url": "postgresql://u@h/d", "amqp_url": "amqp://h", "callback_signing_keys": VECTOR_KEY,
    }  # fmt: skip
    assert CallbackWorkerSettings(**settings).callback_ed25519_key is None
    with pytest.raises(ValidationError, match="must begin with whsk_") as caught:
        CallbackWorkerSettings(**settings, callback_ed25519_key="whsec_c2VjcmV0")
    assert "c2VjcmV0" not in str(caught.value.errors(include_input=False))


def test_a_key_does_not_show_itself() -> None:
    """Settings are printed somewhere, some day."""
    key = parse_key(VECTOR_KEY)
    assert repr(key) == "SigningKey()"
    assert len(key.secret) == 24

"""Signatures of Standard Webhooks 1.0 (symmetric, `v1`), and the keys that make them."""

import base64
import binascii
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

PREFIX = "whsec_"
# The specification's bounds: shorter is guessable, longer brings nothing to HMAC-SHA256.
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A symmetric key. Its repr shows nothing of it."""

    secret: bytes = field(repr=False)


def parse_key(text: str) -> SigningKey:
    """Return the key of a `whsec_…` text. Raises ValueError with a sentence that does not repeat the text."""
    if not text.startswith(PREFIX):
        raise ValueError(f"must begin with {PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if not MIN_KEY_BYTES <= len(secret) <= MAX_KEY_BYTES:
        raise ValueError(f"has {len(secret)} bytes, not {MIN_KEY_BYTES} to {MAX_KEY_BYTES}")
    return SigningKey(secret)


def signature(keys: Iterable[SigningKey], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one `v1,` entry per key, so that receivers may rotate."""
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join(f"v1,{_digest(key, signed)}" for key in keys)


def _digest(key: SigningKey, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key.secret, signed, "sha256")).decode()

"""The keys that sign callbacks (Standard Webhooks 1.0): the operator's master keys, and each client's own.

A client's key is derived from a master key, so nothing is stored: whoever holds the master can tell it again, and a
client that knows its own learns nothing of the master or of another client's.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import Field
from pydantic_settings import NoDecode

from shared.callbacks import ANONYMOUS
from shared.settings import list_of

PREFIX = "whsec_"
# The specification's bounds: shorter is guessable, longer brings nothing to HMAC-SHA256.
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64

# What is derived from is never what is signed: signed content begins with an event id.
_CONTEXT = b"voltline callback key v1\n"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A symmetric key. Its repr shows nothing of it."""

    secret: bytes = field(repr=False)

    def text(self) -> str:
        """Return the key as receivers are given it: `whsec_…`."""
        return PREFIX + base64.b64encode(self.secret).decode()

    def of_client(self, client: str) -> Self:
        """Return the client's own key, 32 bytes: HMAC-SHA256 over the context and the client's name."""
        return type(self)(hmac.digest(self.secret, _CONTEXT + client.encode(), "sha256"))


def parse_key(text: str) -> SigningKey:
    """Return the key of a `whsec_…` text. Raises ValueError with a sentence that does not repeat the text."""
    secret = decode_key(text, PREFIX)
    if not MIN_KEY_BYTES <= len(secret) <= MAX_KEY_BYTES:
        raise ValueError(f"has {len(secret)} bytes, not {MIN_KEY_BYTES} to {MAX_KEY_BYTES}")
    return SigningKey(secret)


def decode_key(text: str, prefix: str) -> bytes:
    """Return the bytes behind the prefix. Raises ValueError as above."""
    if not text.startswith(prefix):
        raise ValueError(f"must begin with {prefix}")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error


def keys_of(client: str | None, keys: Iterable[SigningKey]) -> tuple[SigningKey, ...]:
    """Return the keys that sign for a client, in the order of the masters; nobody's events are signed with those."""
    if not client or client == ANONYMOUS:
        return tuple(keys)
    return tuple(key.of_client(client) for key in keys)


SigningKeys = Annotated[
    tuple[SigningKey, ...], NoDecode, list_of(parse_key, "key", secret=True), Field(min_length=1, repr=False)
]

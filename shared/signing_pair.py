"""The key pair of asymmetric signatures (Standard Webhooks 1.0, `v1a`): ed25519, and one of its own for each client.

With one pair for all, a client could hand a callback of its own on to another, whose check it would pass.
"""

import base64
import hmac
from dataclasses import dataclass, field
from typing import Annotated, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BeforeValidator, Field

from shared.callbacks import ANONYMOUS
from shared.signing_keys import decode_key

PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SEED_BYTES = 32
# The specification's private keys are the seed and the public key behind it.
SEED_AND_PUBLIC_BYTES = 64

_CONTEXT = b"voltline callback pair v1\n"


@dataclass(frozen=True, slots=True)
class SigningPair:
    """An ed25519 key pair, by its seed. Its repr shows nothing of it."""

    seed: bytes = field(repr=False)

    def of_client(self, client: str | None) -> Self:
        """Return the client's own pair; nobody's events are signed with this one."""
        if not client or client == ANONYMOUS:
            return self
        return type(self)(hmac.digest(self.seed, _CONTEXT + client.encode(), "sha256"))

    def public_text(self) -> str:
        """Return the public key as receivers are given it: `whpk_…`."""
        return PUBLIC_PREFIX + base64.b64encode(self._private().public_key().public_bytes_raw()).decode()

    def sign(self, content: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._private().sign(content)

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def parse_pair(text: str) -> SigningPair:
    """Return the pair of a `whsk_…` text: a seed, or a seed and its public key. Raises ValueError without the text."""
    secret = decode_key(text, PRIVATE_PREFIX)
    if len(secret) not in (SEED_BYTES, SEED_AND_PUBLIC_BYTES):
        raise ValueError(f"has {len(secret)} bytes, not {SEED_BYTES} or {SEED_AND_PUBLIC_BYTES}")
    pair = SigningPair(secret[:SEED_BYTES])
    public = secret[SEED_BYTES:]
    if public and pair.public_text() != PUBLIC_PREFIX + base64.b64encode(public).decode():
        raise ValueError("holds a public key that is not the seed's")
    return pair


OptionalSigningPair = Annotated[
    SigningPair | None,
    BeforeValidator(lambda value: parse_pair(value.strip()) if isinstance(value, str) else value),
    Field(repr=False),
]

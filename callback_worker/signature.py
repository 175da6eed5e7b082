"""The header `webhook-signature` (Standard Webhooks 1.0): `v1,` entries, and a `v1a,` one where there is a key pair."""

import base64
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from shared.signing_keys import SigningKey, keys_of
from shared.signing_pair import SigningPair


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for every client, with its own keys. Deriving those costs a microsecond, the pair some forty."""

    keys: tuple[SigningKey, ...]
    pair: SigningPair | None = None

    def sign(self, client: str | None, *, webhook_id: str, timestamp: int, body: bytes) -> str:
        """Return the header's value; the newest key comes first."""
        # The master keys' own entries stay, one per live key: a client verifies with its own, the operator with these.
        own = dict.fromkeys((*keys_of(client, self.keys), *self.keys))
        entries = signature(own, webhook_id=webhook_id, timestamp=timestamp, body=body)
        if self.pair is None:
            return entries
        signed = self.pair.of_client(client).sign(_content(webhook_id, timestamp, body))
        return f"{entries} v1a,{base64.b64encode(signed).decode()}"


def signature(keys: Iterable[SigningKey], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the symmetric entries: one `v1,` per key, so that receivers may rotate."""
    signed = _content(webhook_id, timestamp, body)
    return " ".join(f"v1,{_digest(key, signed)}" for key in keys)


def _content(webhook_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)


def _digest(key: SigningKey, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key.secret, signed, "sha256")).decode()

"""Who calls: API keys by their SHA-256, scopes, and the anonymous caller of a gateway without a key file."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gateway.problems import Kind, Problem

# A key file is read once at the start; this only keeps a wrong path (a log, a device) from being read whole.
MAX_FILE_BYTES = 1024 * 1024

_CLIENT = re.compile(r"[\x21-\x7e]{1,255}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CHALLENGE = 'Bearer realm="voltline"'


class Scope(StrEnum):
    """What a key may do. `operator` is everything of everybody."""

    SESSIONS = "sessions"
    PAYMENTS = "payments"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """The client behind a request."""

    client: str
    scopes: frozenset[Scope]

    @property
    def is_privileged(self) -> bool:
        return Scope.OPERATOR in self.scopes

    @property
    def sees_only(self) -> str | None:
        """The client whose rows this caller may see; None is everybody's."""
        return None if self.is_privileged else self.client

    def require(self, *any_of: Scope) -> None:
        """Raise the 403 unless the caller has one of the scopes."""
        if self.scopes.isdisjoint(any_of) and not self.is_privileged:
            raise Problem(Kind.FORBIDDEN, f"This needs the scope {' or '.join(any_of)}.")


ANONYMOUS = Caller("anonymous", frozenset(Scope))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the key file."""

    digest: bytes
    caller: Caller


def read_lines(path: str) -> list[tuple[int, str]]:
    """Return the numbered lines that hold a key. Raises ValueError when the file gives none."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    lines = enumerate(content.decode(errors="replace").splitlines(), start=1)
    kept = [(number, line.strip()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not kept:
        raise ValueError(f"{path} holds no key")
    return kept


def parse_line(numbered: tuple[int, str]) -> ApiKey:
    """Return the key of a line `client sha256-hex scope,scope`. Raises ValueError; it never repeats the key."""
    number, line = numbered
    parts = line.split()
    if len(parts) != 3:
        raise ValueError(f"line {number}: must be: client sha256-hex scope,scope")
    client, digest, scopes = parts
    if not _CLIENT.fullmatch(client):
        raise ValueError(f"line {number}: the client must be 1 to 255 printable ASCII characters")
    if not _SHA256.fullmatch(digest):
        raise ValueError(f"line {number}: the second word must be the key's SHA-256, 64 hexadecimal digits")
    return ApiKey(bytes.fromhex(digest), Caller(client, _parse_scopes(number, scopes)))


def _parse_scopes(number: int, words: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(word) for word in words.split(","))
    except ValueError as error:
        raise ValueError(f"line {number}: scopes are {', '.join(Scope)}, separated by commas") from error


def identify(keys: tuple[ApiKey, ...] | None, headers: Mapping[bytes, bytes]) -> Caller:
    """Return the caller of a request with these (lower-case) headers, or raise the 401."""
    if keys is None:
        return ANONYMOUS
    presented = _presented_key(headers)
    if presented is None:
        raise _unauthenticated("Send Authorization: Bearer KEY, or X-API-Key: KEY.", _CHALLENGE)
    digest = hashlib.sha256(presented).digest()
    # Every key is compared, so the time tells nothing about which one matched.
    matches = [key.caller for key in keys if hmac.compare_digest(key.digest, digest)]
    if not matches:
        raise _unauthenticated("This API key is not known.", f'{_CHALLENGE}, error="invalid_token"')
    return matches[0]


def _presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and credentials.strip():
        return credentials.strip()
    return headers.get(b"x-api-key") or None


def _unauthenticated(detail: str, challenge: str) -> Problem:
    return Problem(Kind.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})

"""From a callback URL to the addresses that may be dialled for it, or the reason why none may.

The policy judges the addresses that the name has now, at every attempt, and the sender dials those and no others:
what a URL looks like, or what DNS said a moment ago, gains nothing.
"""

import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from yarl import URL

from callback_worker.addresses import Address, AddressPolicy
from shared.errors import VoltlineError

# RFC 1035 §2.3.4; the column `host` counts on it.
MAX_HOST_CHARS = 253

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# What IDNA leaves of a name; anything else is an attempt to be read in two ways.
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# WHATWG URL "ends in a number": what the C library may take for an IPv4 address, such as 127.1 or 0x7f000001.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?", re.DOTALL)


class Blocked(VoltlineError):
    """The policy forbids the destination. The reason is coarse: it must not tell a caller about our networks."""


@dataclass(frozen=True, slots=True)
class DestinationPolicy:
    """What a callback URL may be."""

    addresses: AddressPolicy
    require_https: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL and the vetted addresses of its host, at least one."""

    url: URL
    addresses: tuple[str, ...]


def host_of(url: str) -> str:
    """Return the host that slots are shared by, in lower case; empty for a URL that no attempt can be made to."""
    try:
        host = _parse(url).raw_host or ""
    except Blocked:
        return ""
    return host.lower().rstrip(".")


async def vet(url: str, policy: DestinationPolicy, resolve: Resolve) -> Destination:
    """Resolve the host and judge every address. Raises Blocked, or what `resolve` raises (OSError, TimeoutError)."""
    parsed = _parse(url)
    if policy.require_https and parsed.scheme != "https":
        raise Blocked("the URL must be https")
    host, port = parsed.raw_host, parsed.port
    assert host is not None
    assert port is not None
    addresses = await _addresses(host, port, resolve)
    if not all(policy.addresses.allows(address) for address in addresses):
        raise Blocked("the host has an address that is not public")
    return Destination(parsed, tuple(str(address) for address in addresses))


def _parse(text: str) -> URL:
    """Return the URL as the HTTP client will read it, so that both mean the same host."""
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise Blocked("it is not a URL") from error
    if url.scheme not in ("http", "https") or not host or not port or len(host) > MAX_HOST_CHARS:
        raise Blocked("it is not an absolute http or https URL")
    if url.raw_user is not None or url.raw_password is not None:
        raise Blocked("the URL carries a user name or password")
    return url


async def _addresses(host: str, port: int, resolve: Resolve) -> list[Address]:
    literal = _literal(host)
    if literal is not None:
        return [literal]
    if not _NAME.fullmatch(host):
        raise Blocked("the host is not a name")
    if _ENDS_IN_NUMBER.fullmatch(host):
        # Clients differ in what they take it for, and nobody needs it.
        raise Blocked("the host is a number, but not a plain IPv4 address")
    answers = await resolve(host, port)
    if not answers:
        raise socket.gaierror(socket.EAI_NONAME, "the host has no address")
    return [ip_address(answer) for answer in answers]


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None

"""From a callback URL to the addresses that may be dialled for it, or the reason why none may.

The policy judges the addresses that the name has now, at every attempt, and the sender dials those and no others:
what a URL looks like, or what DNS said a moment ago, gains nothing.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from yarl import URL

from callback_worker.addresses import Address, AddressPolicy
from callback_worker.ports import PortPolicy
from shared.callback_url import Target, parse_callback_url
from shared.errors import VoltlineError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Blocked(VoltlineError):
    """The policy forbids the destination. The reason is coarse: it must not tell a caller about our networks."""


@dataclass(frozen=True, slots=True)
class DestinationPolicy:
    """What a callback URL may be. Where the operator vouches for an address, any port of it is good."""

    addresses: AddressPolicy
    require_https: bool = False
    ports: PortPolicy = field(default_factory=PortPolicy)

    def check(self, addresses: Sequence[Address], port: int) -> None:
        """Raise Blocked where any of the addresses may not be dialled: which one is, would be up to chance."""
        if not all(self.addresses.allows(address) for address in addresses):
            raise Blocked("the host has an address that is not public")
        if not self.ports.allows(port) and not all(self.addresses.vouches_for(address) for address in addresses):
            raise Blocked("the port is none that callbacks go to")


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL and the vetted addresses of its host, at least one."""

    url: URL
    addresses: tuple[Address, ...]


async def vet(url: str, policy: DestinationPolicy, resolve: Resolve) -> Destination:
    """Resolve the host and judge every address. Raises Blocked, or what `resolve` raises (OSError, TimeoutError)."""
    target = _parse(url)
    if policy.require_https and not target.is_https:
        raise Blocked("the URL must be https")
    addresses = await _addresses(target, resolve)
    policy.check(addresses, target.port)
    return Destination(target.url, tuple(addresses))


def _parse(url: str) -> Target:
    """Read the URL as the gateway does; it may have come past it."""
    try:
        return parse_callback_url(url)
    except ValueError as error:
        raise Blocked(f"the URL {error}") from error


async def _addresses(target: Target, resolve: Resolve) -> list[Address]:
    if target.address is not None:
        return [target.address]
    # With the dot of the root, if it is there: the resolver then leaves its search list out.
    answers = await resolve(target.url.raw_host or target.host, target.port)
    if not answers:
        raise socket.gaierror(socket.EAI_NONAME, "the host has no address")
    return [ip_address(answer) for answer in answers]

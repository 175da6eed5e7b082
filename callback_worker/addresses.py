"""Which IP addresses a callback may reach: the policy, as data with its provenance.

`ipaddress.is_global` alone is unsafe (it passes multicast, relays and cloud endpoints), and its answers differ between
Python releases, so every network that matters is listed here as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA IPv4 special-purpose registry (RFC 6890 and later), then what it leaves out.
REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; holds Alibaba Cloud's metadata, 100.100.100.200
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; holds the metadata services of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; holds Oracle Cloud's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relay anycast, withdrawn
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "168.63.129.16/32",  # Azure's platform endpoint, a public address
    )
)
# IANA IPv6 special-purpose registry; unique local addresses hold AWS's metadata, fd00:ec2::254.
REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "::/128",  # unspecified
        "::1/128",  # loopback
        "64:ff9b:1::/48",  # local-use NAT64: no telling what it embeds
        "100::/64",  # discard-only
        "2001::/23",  # protocol assignments; Teredo within it is judged by what it embeds
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, deprecated and still routed by some
        "ff00::/8",  # multicast
    )
)

_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_EMBEDDING_LAST_32_BITS = (_MAPPED, _TRANSLATED, _COMPATIBLE, _NAT64)
_NOT_EMBEDDING = (IPv6Address("::"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The refused networks, less those that the operator allows."""

    allowed: Sequence[Network] = ()

    def allows(self, address: Address) -> bool:
        """Whether a callback may reach the address; an IPv6 form that embeds IPv4 is judged by what it embeds."""
        if any(address in network for network in self.allowed):
            return True
        if isinstance(address, IPv4Address):
            return address.is_global and not any(address in network for network in REFUSED_V4)
        if embedded := embedded_ipv4(address):
            return all(self.allows(inner) for inner in embedded)
        # A zone id only makes sense on a link of our own.
        return address.scope_id is None and address.is_global and not any(address in net for net in REFUSED_V6)


def embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that packets to this address may end at: two for Teredo, mostly none."""
    if address in _NOT_EMBEDDING:
        return ()
    if any(address in network for network in _EMBEDDING_LAST_32_BITS):
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()


def parse_network(text: str) -> Network:
    """Return the network of a CIDR. Raises ValueError, also where bits are set beyond the prefix."""
    return ip_network(text)

"""Which IP addresses a callback may reach: the policy, as data with its provenance.

The rows are those of IANA's special-purpose registries (IPv4 as of 2024-10, IPv6 as of 2025-10), whole, and what these
leave out. Rows that IANA calls globally reachable are refused as well: nobody takes callbacks at an anycast service.
`ipaddress.is_global` alone is unsafe (it passes multicast, relays and cloud endpoints) and differs between releases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry
IANA_V4 = {
    "0.0.0.0/8": "this network, RFC 791",
    "10.0.0.0/8": "private use, RFC 1918",
    "100.64.0.0/10": "shared by carriers, RFC 6598",
    "127.0.0.0/8": "loopback, RFC 1122",
    "169.254.0.0/16": "link-local, RFC 3927; the metadata services of most clouds",
    "172.16.0.0/12": "private use, RFC 1918",
    "192.0.0.0/24": "protocol assignments, RFC 6890; Oracle Cloud's metadata, 192.0.0.192",
    "192.0.0.0/29": "IPv4 service continuity, RFC 7335",
    "192.0.0.8/32": "dummy address, RFC 7600",
    "192.0.0.9/32": "port control protocol anycast, RFC 7723",
    "192.0.0.10/32": "TURN anycast, RFC 8155",
    "192.0.0.170/31": "NAT64 and DNS64 discovery, RFC 8880",
    "192.0.2.0/24": "documentation, RFC 5737",
    "192.31.196.0/24": "AS112, RFC 7535",
    "192.52.193.0/24": "automatic multicast tunnelling, RFC 7450",
    "192.88.99.0/24": "6to4 relay anycast, deprecated, RFC 7526",
    "192.168.0.0/16": "private use, RFC 1918",
    "192.175.48.0/24": "AS112 direct delegation, RFC 7534",
    "198.18.0.0/15": "benchmarking, RFC 2544",
    "198.51.100.0/24": "documentation, RFC 5737",
    "203.0.113.0/24": "documentation, RFC 5737",
    "240.0.0.0/4": "reserved, RFC 1112",
    "255.255.255.255/32": "limited broadcast, RFC 8190",
}
# https://www.iana.org/assignments/iana-ipv6-special-registry, less the forms below that are judged by what they embed
IANA_V6 = {
    "::/128": "unspecified, RFC 4291",
    "::1/128": "loopback, RFC 4291",
    "64:ff9b:1::/48": "local-use NAT64, RFC 8215; there is no telling what it embeds",
    "100::/64": "discard-only, RFC 6666",
    "100:0:0:1::/64": "dummy prefix, RFC 9780",
    "2001::/23": "protocol assignments, RFC 2928",
    "2001:1::1/128": "port control protocol anycast, RFC 7723",
    "2001:1::2/128": "TURN anycast, RFC 8155",
    "2001:1::3/128": "DNS-SD registration anycast, RFC 9665",
    "2001:2::/48": "benchmarking, RFC 5180",
    "2001:3::/32": "automatic multicast tunnelling, RFC 7450",
    "2001:4:112::/48": "AS112, RFC 7535",
    "2001:10::/28": "ORCHID, deprecated, RFC 4843",
    "2001:20::/28": "ORCHIDv2, RFC 7343",
    "2001:30::/28": "drone remote identification, RFC 9374",
    "2001:db8::/32": "documentation, RFC 3849",
    "2620:4f:8000::/48": "AS112 direct delegation, RFC 7534",
    "3fff::/20": "documentation, RFC 9637",
    "5f00::/16": "segment routing, RFC 9602",
    "fc00::/7": "unique local, RFC 4193; AWS's metadata, fd00:ec2::254",
    "fe80::/10": "link-local, RFC 4291",
}
# Registered elsewhere, or with a cloud only.
EXTRAS = {
    "224.0.0.0/4": "multicast, RFC 5771",
    "168.63.129.16/32": "Azure's platform endpoint, a public address",
    "100.100.100.200/32": "Alibaba Cloud's metadata",
    "fd00:ec2::254/128": "AWS's metadata",
    "fd20:ce::254/128": "Google Cloud's metadata",
    "fec0::/10": "site-local, deprecated, RFC 3879; routed by some still",
    "ff00::/8": "multicast, RFC 4291",
}
REFUSED: tuple[Network, ...] = tuple(ip_network(text) for text in (*IANA_V4, *IANA_V6, *EXTRAS))
REFUSED_V4 = tuple(network for network in REFUSED if isinstance(network, IPv4Network))
REFUSED_V6 = tuple(network for network in REFUSED if isinstance(network, IPv6Network))
# All of IPv6 that IANA has given to unicast so far; the rest is nobody's, or one of the forms below.
GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

# IPv6 forms whose last 32 bits are an IPv4 address.
_WRAPPERS = (
    IPv6Network("::ffff:0:0/96"),  # mapped, RFC 4291
    IPv6Network("::ffff:0:0:0/96"),  # translated, RFC 2765
    IPv6Network("::/96"),  # compatible, deprecated, RFC 4291
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
)
_NOT_WRAPPED = (IPv6Address("::"), IPv6Address("::1"))
# ISATAP (RFC 5214 §6.1): the interface id is 00-00-5E-FE or 02-00-5E-FE, then an IPv4 address, under any prefix. The
# bits that tell universal and group are left out of the comparison.
_ISATAP = 0x0000_5EFE
_ISATAP_MASK = 0xFCFF_FFFF


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The refused networks, less those that the operator vouches for."""

    allowed: Sequence[Network] = ()

    def allows(self, address: Address) -> bool:
        """Whether a callback may reach the address; one that embeds IPv4 addresses, only if it may reach these."""
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False  # a zone only makes sense on a link of our own
        if self.vouches_for(address):
            return True
        if isinstance(address, IPv4Address):
            return is_public(address)
        wrapped = wrapped_ipv4(address)
        return all(self.allows(inner) for inner in (*wrapped, *isatap_ipv4(address))) and (
            bool(wrapped) or is_public(address)
        )

    def vouches_for(self, address: Address) -> bool:
        """Whether the operator has allowed the address by CALLBACK_ALLOWED_NETWORKS, plain or wrapped."""
        if any(address in network for network in self.allowed):
            return True
        wrapped = wrapped_ipv4(address) if isinstance(address, IPv6Address) else ()
        return bool(wrapped) and all(self.vouches_for(inner) for inner in wrapped)


@lru_cache(maxsize=4096)
def is_public(address: Address) -> bool:
    """Whether no row refuses the address itself, whatever it may embed."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in REFUSED_V4)
    is_unicast = address in GLOBAL_UNICAST_V6 and address.is_global
    return is_unicast and not any(address in network for network in REFUSED_V6)


def wrapped_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that the prefix says packets may end at: two for Teredo, mostly none."""
    if address in _NOT_WRAPPED:
        return ()
    if any(address in network for network in _WRAPPERS):
        return (_last_32_bits(address),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()


def isatap_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 address that the interface id holds, if it is ISATAP's."""
    interface = int(address) >> 32 & 0xFFFF_FFFF
    return (_last_32_bits(address),) if interface & _ISATAP_MASK == _ISATAP else ()


def parse_network(text: str) -> Network:
    """Return the network of a CIDR. Raises ValueError, also where bits are set beyond the prefix."""
    return ip_network(text)


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFF_FFFF)

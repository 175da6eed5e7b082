"""Which addresses a callback may reach, plain and in every form that embeds one."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callback_worker.addresses import (
    EXTRAS,
    GLOBAL_UNICAST_V6,
    IANA_V4,
    IANA_V6,
    REFUSED_V4,
    REFUSED_V6,
    AddressPolicy,
    isatap_ipv4,
    wrapped_ipv4,
)

STRICT = AddressPolicy()
PUBLIC_V4 = "8.8.8.8"
PUBLIC_PREFIX = int(IPv6Address("2a00:1450:4001:816::")) >> 64
TEREDO_SERVER = int(IPv4Address(PUBLIC_V4))

# Each form -> the IPv6 address that embeds this IPv4 address, under this 64-bit prefix where the form leaves one free.
FORMS: dict[str, Callable[[int, int], int]] = {
    "mapped": lambda inner, _: 0xFFFF << 32 | inner,
    "compatible": lambda inner, _: inner,
    "translated": lambda inner, _: 0xFFFF << 48 | inner,
    "NAT64": lambda inner, _: 0x64_FF9B << 96 | inner,
    "6to4": lambda inner, prefix: 0x2002 << 112 | inner << 80 | (prefix & 0xFFFF) << 64,
    "Teredo client": lambda inner, _: 0x2001_0000 << 96 | TEREDO_SERVER << 64 | (inner ^ 0xFFFF_FFFF),
    "Teredo server": lambda inner, _: 0x2001_0000 << 96 | inner << 64 | (TEREDO_SERVER ^ 0xFFFF_FFFF),
    "ISATAP": lambda inner, prefix: prefix << 64 | 0x0000_5EFE << 32 | inner,
    "ISATAP, universal": lambda inner, prefix: prefix << 64 | 0x0200_5EFE << 32 | inner,
    "ISATAP, group": lambda inner, prefix: prefix << 64 | 0x0300_5EFE << 32 | inner,
}
EMBEDS_ITSELF = (0, 1)  # :: and ::1 are no compatible addresses

forms = st.sampled_from(list(FORMS.values()))
refused_v4 = st.sampled_from(REFUSED_V4).flatmap(lambda net: st.integers(int(net[0]), int(net[-1])))
any_v4 = st.integers(0, 2**32 - 1)
prefixes = st.integers(0, 2**64 - 1) | st.just(PUBLIC_PREFIX)


@given(refused_v4)
def test_no_address_of_a_refused_ipv4_network_is_reachable(number: int) -> None:
    """Every row of the table, from its first to its last address."""
    assert not STRICT.allows(IPv4Address(number))


@given(st.sampled_from(REFUSED_V6).flatmap(lambda net: st.integers(int(net[0]), int(net[-1]))))
def test_no_address_of_a_refused_ipv6_network_is_reachable(number: int) -> None:
    """Except where its prefix says that it embeds a public IPv4 address, which Teredo's does."""
    address = IPv6Address(number)
    assert wrapped_ipv4(address) or not STRICT.allows(address)


@given(refused_v4, forms, prefixes)
def test_whatever_embeds_a_refused_ipv4_address_is_refused(
    inner: int, form: Callable[[int, int], int], prefix: int
) -> None:
    """Mapped, compatible, translated, NAT64, 6to4, Teredo and ISATAP, under any prefix."""
    assert not STRICT.allows(IPv6Address(form(inner, prefix)))


@given(any_v4, forms, prefixes)
def test_what_embeds_is_reachable_only_if_what_it_embeds_is(
    inner: int, form: Callable[[int, int], int], prefix: int
) -> None:
    """For any IPv4 address at all; the form is recognised."""
    address = IPv6Address(form(inner, prefix))
    embedded = (*wrapped_ipv4(address), *isatap_ipv4(address))
    assert int(address) in EMBEDS_ITSELF or IPv4Address(inner) in embedded
    assert not STRICT.allows(address) or all(STRICT.allows(each) for each in (IPv4Address(inner), *embedded))


@given(refused_v4, st.integers(0, 2**16 - 1))
def test_forms_within_forms_are_seen_through(inner: int, subnet: int) -> None:
    """ISATAP under the 6to4 prefix of a public address; and the other way round, the public one inside."""
    public = int(IPv4Address(PUBLIC_V4))
    outer = 0x2002 << 112 | public << 80 | subnet << 64
    assert not STRICT.allows(IPv6Address(outer | 0x0000_5EFE << 32 | inner))
    outer = 0x2002 << 112 | inner << 80 | subnet << 64
    assert not STRICT.allows(IPv6Address(outer | 0x0000_5EFE << 32 | public))


@given(st.integers(0, 2**128 - 1))
def test_outside_the_unicast_space_only_embedding_forms_are_reachable(number: int) -> None:
    """What IANA has given to nobody yet is nobody's."""
    address = IPv6Address(number)
    assert not STRICT.allows(address) or address in GLOBAL_UNICAST_V6 or wrapped_ipv4(address)


@given(any_v4 | refused_v4, st.integers(0, 2**128 - 1))
def test_whatever_pythons_own_registry_refuses_is_refused(v4: int, v6: int) -> None:
    """The table adds to it, and takes nothing from it."""
    assert not STRICT.allows(IPv4Address(v4)) or IPv4Address(v4).is_global
    address = IPv6Address(v6)
    assert not STRICT.allows(address) or wrapped_ipv4(address) or address.is_global


@pytest.mark.parametrize("text", [*IANA_V4, *IANA_V6, *EXTRAS])
def test_the_table_alone_refuses_each_of_its_rows(text: str) -> None:
    """Without Python's help, which differs between releases; every row names its source."""
    network = ip_network(text)
    refused = REFUSED_V4 if network.version == 4 else REFUSED_V6
    assert network in refused
    source = {**IANA_V4, **IANA_V6, **EXTRAS}[text]
    assert "RFC " in source or any(cloud in source for cloud in ("Azure", "Alibaba", "AWS", "Google"))


PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "168.63.129.15", "168.63.129.17", "100.63.255.255", "100.128.0.0",
    "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "11.0.0.0",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "2001:200::1", "2001:db7:ffff::1", "2001:db9::1", "2620:4f:8001::1",
    "3ffe:ffff::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2a00:1450::5efe:8.8.8.8",
    "2a00:1450::1:5efe:10.0.0.1", "2001:0:808:808::f7f7:f7f7",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_reachable(address: str) -> None:
    """Next to the refused ones, too; and what only looks like an embedding form."""
    assert STRICT.allows(ip_address(address))


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1111%eth0", "::1%lo", "::ffff:8.8.8.8%1"])
def test_an_address_with_a_zone_is_refused_even_where_the_operator_vouches_for_it(address: str) -> None:
    """It only makes sense on a link of our own."""
    everything = AddressPolicy((ip_network("::/0"), ip_network("0.0.0.0/0")))
    assert not STRICT.allows(ip_address(address))
    assert not everything.allows(ip_address(address))


VOUCHED = AddressPolicy(tuple(map(ip_network, ("127.0.0.0/8", "10.1.2.0/24", "fd00::/64"))))


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "2002:a01:203::1", "fd00::7"])
def test_the_operator_may_allow_networks(address: str) -> None:
    """CALLBACK_ALLOWED_NETWORKS; forms that embed by their prefix follow what they embed."""
    assert VOUCHED.allows(ip_address(address))
    assert VOUCHED.vouches_for(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["10.1.3.1", "::1", "fd00:0:0:1::1", "fe80::5efe:10.1.2.3", "::ffff:10.1.3.1", "2001:0:a01:203::f5ff:fffe"],
)
def test_what_the_operator_allows_is_no_more_than_that(address: str) -> None:
    """Neither its neighbours, nor a private prefix around it, nor one of two embedded addresses."""
    assert not VOUCHED.allows(ip_address(address))
    assert not VOUCHED.vouches_for(ip_address(address))


def test_a_public_address_is_allowed_and_not_vouched_for() -> None:
    """So the ports count."""
    for address in map(ip_address, (PUBLIC_V4, "2606:4700:4700::1111", "2606:4700::5efe:10.1.2.3")):
        assert VOUCHED.allows(address)
        assert not VOUCHED.vouches_for(address)

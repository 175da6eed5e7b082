"""Which URLs and addresses a callback may go to."""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callback_worker.addresses import REFUSED_V4, REFUSED_V6, AddressPolicy, embedded_ipv4
from callback_worker.destination import Blocked, DestinationPolicy, host_of, vet

STRICT = DestinationPolicy(AddressPolicy())

REFUSED = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "192.0.0.1", "192.0.0.9",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1",
    "3fff::1", "5f00::1", "100::1", "64:ff9b:1::1",
    "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001::5ef5:79fb",
]  # fmt: skip
ALLOWED = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "168.63.129.17", "2606:4700:4700::1111", "2a00:1450:4001::1",
    "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Registries of special-purpose addresses, cloud endpoints, and every form that embeds such an address."""
    assert not AddressPolicy().allows(ip_address(address))


@pytest.mark.parametrize("address", ALLOWED)
def test_a_public_address_is_allowed(address: str) -> None:
    """An embedding form is judged by what it embeds."""
    assert AddressPolicy().allows(ip_address(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "fd00::7"])
def test_the_operator_may_allow_networks(address: str) -> None:
    """CALLBACK_ALLOWED_NETWORKS; the embedding forms follow the address that they embed."""
    allowed = tuple(map(ip_network, ("127.0.0.0/8", "10.1.2.0/24", "fd00::/64")))
    assert AddressPolicy(allowed).allows(ip_address(address))
    assert not AddressPolicy(allowed).allows(ip_address("10.1.3.1"))


@given(st.sampled_from(REFUSED_V4).flatmap(lambda net: st.integers(int(net[0]), int(net[-1]))))
def test_no_wrapping_makes_a_refused_address_reachable(number: int) -> None:
    """Mapped, compatible, translated, NAT64, 6to4 and Teredo, over all of every refused network."""
    inner = IPv4Address(number)
    teredo = 0x2001_0000 << 96 | int(IPv4Address("8.8.8.8")) << 64 | (number ^ 0xFFFF_FFFF)
    prefixes = (0xFFFF << 32, 0, 0xFFFF << 48, 0x64FF9B << 96)
    wrapped = [*(prefix | number for prefix in prefixes), 0x2002 << 112 | number << 80, teredo]
    assert not AddressPolicy().allows(inner)
    assert not any(AddressPolicy().allows(IPv6Address(value)) for value in wrapped)


@given(st.sampled_from(REFUSED_V6).flatmap(lambda net: st.integers(int(net[0]), int(net[-1]))))
def test_no_address_of_a_refused_ipv6_network_is_reachable(number: int) -> None:
    """Except where it embeds a public IPv4 address, which Teredo does."""
    address = IPv6Address(number)
    assert embedded_ipv4(address) or not AddressPolicy().allows(address)


class Dns:
    """Answers with what it was given, and remembers the questions."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers


async def test_one_bad_answer_among_good_ones_refuses_the_host() -> None:
    """Which of them would be dialled is up to chance and the other side."""
    with pytest.raises(Blocked):
        await vet("https://a.example/x", STRICT, Dns("93.184.216.34", "::1", "8.8.8.8"))


async def test_all_vetted_addresses_are_handed_to_the_dialler() -> None:
    """Any number of answers, in their order."""
    many = [f"93.184.{high}.{low}" for high in range(4) for low in range(100)]
    destination = await vet("https://a.example/x", STRICT, Dns(*many))
    assert list(destination.addresses) == many
    assert destination.url.host == "a.example"


async def test_a_name_that_points_elsewhere_later_is_judged_anew() -> None:
    """Rebinding: every attempt asks and judges again."""
    dns = Dns("93.184.216.34")
    await vet("http://rebind.example/", STRICT, dns)
    dns.answers = ("127.0.0.1",)
    with pytest.raises(Blocked):
        await vet("http://rebind.example/", STRICT, dns)
    assert len(dns.asked) == 2


async def test_a_name_without_addresses_is_a_dns_failure() -> None:
    """Not a policy matter: it is retried."""
    with pytest.raises(socket.gaierror):
        await vet("http://nothing.example/", STRICT, Dns())


HOPELESS = [
    "", "x", "/path", "ftp://a.example/", "file:///etc/passwd", "http://", "http:///x", "http://[::1", "http://a:99999/",
    "http://user:pass@a.example/", "http://user@a.example/", "http://" + "a" * 254 + "/", "javascript:alert(1)",
]  # fmt: skip


@pytest.mark.parametrize("url", HOPELESS)
async def test_a_hopeless_url_is_blocked_and_has_no_host(url: str) -> None:
    """It may come from the queue, past the gateway's check."""
    with pytest.raises(Blocked):
        await vet(url, STRICT, Dns("93.184.216.34"))
    assert host_of(url) == ""


DISGUISED = [
    "2130706433", "0x7f000001", "0x7f.0.0.1", "127.1", "127.0.1", "0177.0.0.1", "017700000001", "127.0.0.1",
    "127.0.0.1.", "[::ffff:127.0.0.1]",
    "[::1]", "[fe80::1%25eth0]", "127。0。0。1", "１２７.0.0.1", "①②⑦.0.0.1", "0", "0.0.0.0",
    "169.254.169.254", "3232235521", "[64:ff9b::7f00:1]", "1.2.3.4.5", "a.0x", "127.0.0.1%00.example",
]  # fmt: skip


@pytest.mark.parametrize("host", DISGUISED)
async def test_a_loopback_address_in_disguise_is_blocked_without_asking_dns(host: str) -> None:
    """What a C library would take for an address never reaches it."""
    dns = Dns("93.184.216.34")
    with pytest.raises(Blocked):
        await vet(f"http://{host}/", STRICT, dns)
    assert dns.asked == []


async def test_https_can_be_required() -> None:
    """CALLBACK_REQUIRE_HTTPS."""
    policy = DestinationPolicy(AddressPolicy(), require_https=True)
    with pytest.raises(Blocked, match="https"):
        await vet("http://a.example/", policy, Dns("93.184.216.34"))
    await vet("https://a.example/", policy, Dns("93.184.216.34"))


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://A.Example:8443/x?y", "a.example"), ("http://a.example./", "a.example"), ("http://[::1]:80/", "::1")],
)
def test_slots_are_shared_by_host(url: str, host: str) -> None:
    """Case, port and a trailing dot make no other host."""
    assert host_of(url) == host

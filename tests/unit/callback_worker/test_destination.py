"""From a URL to what may be dialled: names are judged by what DNS says now, ports by where they are."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from callback_worker.addresses import AddressPolicy
from callback_worker.destination import Blocked, DestinationPolicy, vet
from callback_worker.ports import PortPolicy

STRICT = DestinationPolicy(AddressPolicy())


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
    assert list(destination.addresses) == [ip_address(each) for each in many]
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


VOUCHED = DestinationPolicy(AddressPolicy((ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))))


@pytest.mark.parametrize("port", [1, 22, 1023, 3000, 5000, 5432, 6379, 65535])
async def test_any_port_is_open_where_the_operator_vouches_for_the_network(port: int) -> None:
    """He knows what is there."""
    assert (await vet(f"http://127.0.0.1:{port}/", VOUCHED, Dns())).addresses
    assert (await vet(f"http://a.example:{port}/", VOUCHED, Dns("127.0.0.1", "10.0.0.1"))).addresses


async def test_ports_count_as_soon_as_one_address_is_not_vouched_for() -> None:
    """It might be the one that is dialled."""
    with pytest.raises(Blocked, match="port"):
        await vet("http://a.example:6379/", VOUCHED, Dns("127.0.0.1", "8.8.8.8"))
    assert (await vet("http://a.example:8080/", VOUCHED, Dns("127.0.0.1", "8.8.8.8"))).addresses


async def test_an_address_that_is_not_public_is_told_before_the_port() -> None:
    """So what is said about a port tells nothing about an address."""
    with pytest.raises(Blocked, match="not public"):
        await vet("http://a.example:6379/", VOUCHED, Dns("8.8.8.8", "192.168.0.1"))


async def test_ports_may_be_listed() -> None:
    """CALLBACK_ALLOWED_PORTS."""
    only = DestinationPolicy(AddressPolicy(), ports=PortPolicy((range(443, 444),)))
    assert (await vet("https://a.example/", only, Dns("8.8.8.8"))).addresses
    with pytest.raises(Blocked, match="port"):
        await vet("http://a.example/", only, Dns("8.8.8.8"))


async def test_a_name_is_looked_up_as_it_is_written() -> None:
    """The dot of the root keeps the resolver from its search list, which leads into our own domains."""
    dns = Dns("8.8.8.8")
    await vet("http://A.example./", STRICT, dns)
    assert dns.asked == ["a.example."]


async def test_https_can_be_required() -> None:
    """CALLBACK_REQUIRE_HTTPS."""
    policy = DestinationPolicy(AddressPolicy(), require_https=True)
    with pytest.raises(Blocked, match="https"):
        await vet("http://a.example/", policy, Dns("93.184.216.34"))
    await vet("https://a.example/", policy, Dns("93.184.216.34"))

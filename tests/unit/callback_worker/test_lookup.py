"""DNS: many names at once, each asked once at a time, none for longer than the deadline."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from callback_worker import lookup
from callback_worker.lookup import THREADS, THREADS_PER_DOMAIN, Lookup, domain_of


class Names:
    """Stands in for the C library: names under `slow.` answer once released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.released.wait(5)
        return ("192.0.2.1",)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(lookup, "_getaddrinfo", made)
    monkeypatch.setattr(lookup, "DNS_TIMEOUT_S", 0.4)
    yield made
    made.released.set()


async def test_slow_names_hold_up_no_other(names: Names) -> None:
    """The event loop's own resolver would have stood still with four of them."""
    resolve = Lookup()
    slow = [asyncio.ensure_future(resolve(f"slow{number}.example", 80)) for number in range(30)]
    assert await resolve("quick.example", 80) == ("192.0.2.1",)
    results = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    names.released.set()
    resolve.close()


async def test_one_domain_of_slow_names_holds_up_no_other(names: Names) -> None:
    """Its owner has more names than we have threads, and takes a few of these."""
    resolve = Lookup()
    slow = [asyncio.ensure_future(resolve(f"slow{number}.tarpit.example", 80)) for number in range(2 * THREADS)]
    assert await resolve("quick.example", 80) == ("192.0.2.1",)
    results = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    assert len(names.asked) == THREADS_PER_DOMAIN + 1
    names.released.set()
    resolve.close()


async def test_a_domain_gets_its_turns_back(names: Names) -> None:
    """All of its names are looked up, a few at a time; nothing is kept of it afterwards."""
    resolve = Lookup()
    many = [resolve(f"h{number % 30}.busy.example", 80) for number in range(90)]
    assert set(await asyncio.gather(*many)) == {("192.0.2.1",)}
    assert sorted(set(names.asked)) == sorted(f"h{number}.busy.example" for number in range(30))
    await asyncio.sleep(0)
    assert not resolve._turns
    resolve.close()


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("localhost", "localhost"), ("a.example", "a.example"), ("a.b.c.example.", "c.example"),
        ("shop.co.uk", "shop.co.uk"), ("a.shop.co.uk", "shop.co.uk"), ("a.shop.de", "shop.de"), ("co.uk", "co.uk"),
    ],
)  # fmt: skip
def test_a_domain_is_what_somebody_has_registered(host: str, domain: str) -> None:
    """As far as the name tells."""
    assert domain_of(host) == domain


async def test_one_name_is_asked_once_at_a_time(names: Names) -> None:
    """Twenty attempts to one slow host take one thread, also after they have given up."""
    resolve = Lookup()
    for _ in range(2):
        attempts = [resolve("slow.example", 443) for _ in range(20)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(result) for result in results} == {TimeoutError}
    assert names.asked == ["slow.example"]
    names.released.set()
    resolve.close()


async def test_real_names_resolve_and_unreal_ones_fail_as_dns_does() -> None:
    """`localhost` needs no network; a label that is too long needs no DNS."""
    resolve = Lookup()
    assert set(await resolve("localhost", 80)) & {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await resolve("a" * 64 + ".example", 80)
    resolve.close()

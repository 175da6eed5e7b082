"""DNS: many names at once, each asked once at a time, none for longer than the deadline."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from callback_worker import lookup
from callback_worker.lookup import THREADS, THREADS_PER_DOMAIN, Lookup, domain_of
from callback_worker.slots import KEPT_SHARE


class Names:
    """Stands in for the C library: names under `slow.` answer once released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.released.wait(60)
        return ("192.0.2.1",)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(lookup, "_getaddrinfo", made)
    monkeypatch.setattr(lookup, "DNS_TIMEOUT_S", 1.4)
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
    assert not resolve._slots.taken
    assert not resolve._waiting
    resolve.close()


async def test_domains_of_dead_name_servers_hold_up_no_other(names: Names) -> None:
    """Not even names that nobody has asked for before: eight domains would have a thread for each of their names."""
    resolve = Lookup()
    slow = [asyncio.ensure_future(resolve(f"slow{n}.tarpit{n % 8}.example", 80)) for n in range(2 * THREADS)]
    news = [resolve(f"new{number}.example{number}", 80) for number in range(20)]
    assert set(await asyncio.gather(*news)) == {("192.0.2.1",)}
    assert not any(each.done() for each in slow)
    await asyncio.gather(*slow, return_exceptions=True)
    names.released.set()
    resolve.close()


async def test_any_number_of_them_holds_up_no_name_of_a_domain_that_was_quick(names: Names) -> None:
    """A quarter of the threads is kept for those."""
    resolve = Lookup()
    for number in range(5):
        await resolve(f"h.known{number}.example", 80)
    slow = [asyncio.ensure_future(resolve(f"slow.tarpit{number}", 80)) for number in range(3 * THREADS)]
    await asyncio.sleep(0)
    for turn in range(3):
        known = [resolve(f"h{turn}.known{number}.example", 80) for number in range(5)]
        assert set(await asyncio.gather(*known)) == {("192.0.2.1",)}
    assert not any(each.done() for each in slow)
    await asyncio.gather(*slow, return_exceptions=True)
    assert sum(each.startswith("slow") for each in names.asked) == THREADS - THREADS // KEPT_SHARE
    names.released.set()
    resolve.close()


async def test_a_domain_that_hangs_is_slow_at_the_deadline_and_one_that_waited_for_it_is_not(names: Names) -> None:
    """Its threads may come back much later."""
    resolve = Lookup()
    domains = [f"{number}.example" for number in range(2 * THREADS)]
    for domain in domains:
        await resolve(f"h.{domain}", 80)
    hanging = [resolve(f"slow.{domain}", 80) for domain in domains]
    results = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    asked = {domain_of(name) for name in names.asked if name.startswith("slow")}
    assert len(asked) == THREADS
    assert set(resolve._slots.quick) == set(domains) - asked
    names.released.set()
    resolve.close()


async def test_who_gives_up_in_the_moment_of_its_turn_leaves_it_to_the_next(names: Names) -> None:
    """The turn was given, and is given back: no thread is lost."""
    resolve = Lookup()
    assert all(resolve._slots.take("shop.example") for _ in range(THREADS_PER_DOMAIN))
    waiting = [asyncio.ensure_future(resolve(f"h{number}.shop.example", 80)) for number in range(3)]
    await asyncio.sleep(0)
    resolve._slots.give_back("shop.example")
    waiting[0].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [("192.0.2.1",)] * 2
    await asyncio.sleep(0)
    assert resolve._slots.taken == {"shop.example": THREADS_PER_DOMAIN - 1}
    resolve.close()


async def test_who_waited_for_a_turn_shares_the_look_up_that_a_neighbour_began_meanwhile(names: Names) -> None:
    """And needs no thread for it."""
    resolve = Lookup()
    assert all(resolve._slots.take("shop.example") for _ in range(THREADS_PER_DOMAIN))
    waiting = [asyncio.ensure_future(resolve("slow.shop.example", 80)) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(THREADS_PER_DOMAIN):
        resolve._slots.give_back("shop.example")
    await asyncio.sleep(0)
    assert resolve._slots.taken == {"shop.example": 1}
    names.released.set()
    assert await asyncio.gather(*waiting) == [("192.0.2.1",)] * 3
    assert names.asked == ["slow.shop.example"]
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


async def test_one_name_is_asked_once_at_a_time(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty attempts to one slow host take one thread, also after they have given up."""
    monkeypatch.setattr(lookup, "DNS_TIMEOUT_S", 0.2)
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

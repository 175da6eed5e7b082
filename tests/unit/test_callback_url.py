"""How a callback URL is read: one host, which everybody reads alike, or a refusal. The corpus has the cases by name."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.callback_url import MAX_HOST_CHARS, Target, parse_callback_url

ODD = "0123456789xXabf.:-_%[]@/\\?#。．｡１①٣¹é ß\u200b"
hosts = st.text(st.sampled_from(ODD), max_size=24) | st.text(max_size=24)


def read(url: str) -> Target | None:
    try:
        return parse_callback_url(url)
    except ValueError:
        return None


@given(hosts)
def test_an_accepted_host_is_a_plain_address_or_a_name_that_no_library_takes_for_one(host: str) -> None:
    """What getaddrinfo, inet_aton or a browser would make an address of is refused, unless it is spelt plainly."""
    target = read(f"http://{host}/")
    if target is None:
        return
    if target.address is not None:
        assert ip_address(target.host) == target.address
        return
    assert re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", target.host)
    assert len(target.host) <= MAX_HOST_CHARS
    with pytest.raises(OSError, match=r"illegal IP|invalid"):
        socket.inet_aton(target.host)


@given(hosts, st.integers(-5, 70_000), st.sampled_from(["", "/", "/a b", "?x", "#y", "/%00"]))
def test_whatever_comes_it_is_read_or_refused(host: str, port: int, rest: str) -> None:
    """No other error, and what is read is read by the HTTP client in the same way."""
    target = read(f"https://{host}:{port}{rest}")
    if target is not None:
        # What ends the host early makes the port a part of the path.
        assert target.url.port == target.port == (443 if set("/?") & set(host) else port)
        assert target.url.raw_host is not None
        assert target.url.raw_host.lower().removesuffix(".") == target.host
        assert target.url.raw_user is None
        assert target.is_https


@pytest.mark.parametrize(
    ("given", "requested"),
    [
        ("", "/"), ("/", "/"), ("?x", "/?x"), ("//a//", "//a//"), ("/a?", "/a"),
        ("/hook?y=%2f&Z=%2F", "/hook?y=%2f&Z=%2F"), ("/%7Ea/../b/./c", "/%7Ea/../b/./c"),
        ("/%2e%2e/%00%0d%0a", "/%2e%2e/%00%0d%0a"),
        ("/a;b=1:2@3?q=a+b%20c&d=e?f/g&h='(!)*$,~'", "/a;b=1:2@3?q=a+b%20c&d=e?f/g&h='(!)*$,~'"),
        ("/%zz/%", "/%25zz/%25"), ("/50%-%41", "/50%25-%41"), ("/%%41", "/%25%41"),
        ("/Zürich/%C3%BC?q=☎", "/Z%C3%BCrich/%C3%BC?q=%E2%98%8E"), ("/\u200b\u202e", "/%E2%80%8B%E2%80%AE"),
        ("/a[0]?b[]={c}|\"<>^`", "/a%5B0%5D?b%5B%5D=%7Bc%7D%7C%22%3C%3E%5E%60"),
    ],
)  # fmt: skip
def test_what_is_requested_is_what_was_given(given: str, requested: str) -> None:
    """Signatures of URLs are over their spelling. Only what no URL can hold is escaped, each character by itself.

    The one other change: `?` with nothing behind it is left out.
    """
    assert parse_callback_url(f"https://a.example{given}").url.raw_path_qs == requested


@given(hosts, st.text() | st.text(st.sampled_from("/.%2fF?&=+;:@~[]|é\\\r\n\t #\u2028\u3000\x7f\x00\ud800a0")))
def test_no_path_moves_the_host_or_reaches_beyond_the_request_line(host: str, rest: str) -> None:
    """Host, port and scheme are those of the URL without it; and what goes out is plain text with whole escapes."""
    target, bare = read(f"http://{host}/{rest}"), read(f"http://{host}/")
    if target is None:
        return
    if not set("/?") & set(host):
        assert bare is not None
        assert (target.host, target.port, target.address) == (bare.host, bare.port, bare.address)
        assert (target.url.raw_authority, target.url.scheme) == (bare.url.raw_authority, "http")
    assert re.fullmatch(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", target.url.raw_path_qs)
    assert str(target.url).isascii()
    assert target.url.raw_user is None
    assert not target.url.raw_fragment


@given(
    st.from_regex(
        r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*(?:\?(?:[a-f0-9./?~%=&+-]|%2f)+)?", fullmatch=True
    )
)
def test_a_plain_path_goes_out_byte_for_byte(rest: str) -> None:
    """Whatever its dots and escapes mean."""
    assert parse_callback_url(f"http://a.example{rest}").url.raw_path_qs == re.sub("%(?![0-9A-Fa-f]{2})", "%25", rest)


@given(st.integers(0, 2**32 - 1))
def test_every_plain_ipv4_address_is_taken_and_no_other_spelling_of_it(number: int) -> None:
    """In decimal, hexadecimal, octal, and in fewer parts."""
    address = IPv4Address(number)
    target = read(f"http://{address}:8080/")
    assert target is not None
    assert (target.address, target.port) == (address, 8080)
    high, low = str(address).split(".", 1)[0], number & 0xFF_FFFF
    for spelling in (str(number), hex(number), f"0{number:o}", f"{high}.{low}", f"{address}.", f"0{address}"):
        assert read(f"http://{spelling}/") is None


@given(st.integers(0, 2**128 - 1))
def test_every_ipv6_address_is_taken_in_brackets_alone(number: int) -> None:
    """In any of its spellings, without a zone."""
    address = IPv6Address(number)
    for spelling in (str(address), address.exploded, str(address).upper()):
        target = read(f"http://[{spelling}]/")
        assert target is not None
        assert target.address == ip_address(target.host) == address
        assert read(f"http://{spelling}/") is None
        assert read(f"http://[{spelling}%251]/") is None


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://A.Example:8443/x?y", "a.example", 8443), ("http://a.example./", "a.example", 80),
        ("https://[::1]/", "::1", 443), ("http://bücher.example/", "xn--bcher-kva.example", 80),
    ],
)  # fmt: skip
def test_host_and_port_are_what_slots_are_shared_by(url: str, host: str, port: int) -> None:
    """Case, script and a trailing dot make no other host."""
    target = parse_callback_url(url)
    assert (target.host, target.port) == (host, port)

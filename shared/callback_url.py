"""What a callback URL may look like, as the text alone tells: one reading for who accepts URLs and who dials them.

Programs differ in what they take an odd host for, so a host is a plain name or a plain address, or it is refused.
Where the name leads is another matter: DNS tells, at every attempt, and the callback worker's policy judges it.
"""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote

from yarl import URL

# RFC 1035 §2.3.4; the column `host` counts on it.
MAX_HOST_CHARS = 253
MAX_LABEL_CHARS = 63

_SCHEMES = ("http", "https")
_SCHEME_AND_AUTHORITY = re.compile(r"([A-Za-z]+)://([^/?#]*)")
# int() would take "+80", "8_0" and full-width digits as well.
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5})?)?")
# Letters, digits, hyphens within (RFC 1123 §2.1); and the underscore, which DNS allows and container names have.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
# WHATWG URL "ends in a number": what a C library may take for an IPv4 address, such as 127.1 or 0x7f000001.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?", re.DOTALL)
# What IDNA takes for a full stop (RFC 3490 §3.1).
_FULL_STOPS = str.maketrans("\u3002\uff0e\uff61", "...")
# What path and query hold as it is, beside letters, digits and -._~ (RFC 3986 §3.3, §3.4); % begins an escape.
_PLAIN = "/?:@!$&'()*+,;=%"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Target:
    """A callback URL, read. `host` is in lower case and without the dot of the root, or an address without brackets.

    `url` is to be requested as it is: its path and query are spelt as the subscriber spelt them.
    """

    url: URL
    host: str
    port: int
    address: IPv4Address | IPv6Address | None

    @property
    def is_https(self) -> bool:
        """Whether TLS is spoken."""
        return self.url.scheme == "https"


def parse_callback_url(text: str) -> Target:
    """Return how the URL is read. Raises ValueError with a sentence about it, which does not repeat it."""
    _check_characters(text)
    split = _SCHEME_AND_AUTHORITY.match(text)
    if split is None or split[1].lower() not in _SCHEMES:
        raise ValueError("must be an absolute http or https URL")
    authority = split[2]
    if "@" in authority:
        raise ValueError("must not carry a user name or password")
    if "#" in text:
        raise ValueError("must not have a fragment")
    if (parts := _HOST_AND_PORT.fullmatch(authority)) is None:
        raise ValueError("must name a host, and no port but one from 1 to 65535")
    return _read(split[0], text[split.end() :], parts["host"])


def _check_characters(text: str) -> None:
    if any(char.isspace() or unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ValueError("must not contain white space or control characters")
    if "\\" in text:
        raise ValueError("must not contain a backslash")


def _read(origin: str, path_and_query: str, written: str) -> Target:
    """Read the URL as the HTTP client does, so that both mean the same host; `written` is the host in the text."""
    address = _literal(written)
    try:
        normal = URL(origin)
        # Host and port are those of the very URL that is requested, of which the client changes nothing any more.
        url = URL(f"{normal.scheme}://{normal.raw_authority}{_escaped(path_and_query)}", encoded=True)
        host, port = url.raw_host or "", url.port
    except ValueError as error:  # yarl's own sentence repeats the host
        raise ValueError("is not a URL") from error
    if not host or not port:
        raise ValueError("must name a host, and no port but one from 1 to 65535")
    if address is None:
        _check_name(host.removesuffix("."), written)
    return Target(url, host.lower().removesuffix("."), port, address)


def _escaped(path_and_query: str) -> str:
    """Return it with escapes for what no URL can hold, and nothing else changed: its spelling may have been signed."""
    return quote(_STRAY_PERCENT.sub("%25", path_and_query), safe=_PLAIN)


def _literal(written: str) -> IPv4Address | IPv6Address | None:
    """Return the address that the host is in its one plain spelling, or None for a name."""
    is_bracketed = written.startswith("[")
    try:
        address = ip_address(written.strip("[]"))
    except ValueError as error:
        if is_bracketed:
            raise ValueError("must have an IPv6 address between the brackets") from error
        return None
    if is_bracketed != isinstance(address, IPv6Address):
        raise ValueError("must have an IPv6 address between brackets")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("must not name a network interface")
    return address


def _check_name(name: str, written: str) -> None:
    """Refuse what is no host name, and what anybody might take for an address."""
    if any(_ENDS_IN_NUMBER.fullmatch(host) for host in (name, _with_plain_digits(written))):
        raise ValueError("must not have a number for a host, except for a plain IPv4 address")
    if len(name) > MAX_HOST_CHARS:
        raise ValueError(f"must not have a host of more than {MAX_HOST_CHARS} characters")
    for label in name.split("."):
        if not _LABEL.fullmatch(label) or len(label) > MAX_LABEL_CHARS:
            raise ValueError("must have a host name of letters, digits and hyphens")


def _with_plain_digits(host: str) -> str:
    """Return the host with the digits and dots of every script as those of ASCII: others read them so."""
    digits = (unicodedata.digit(char, None) for char in host)
    plain = (char if digit is None else str(digit) for char, digit in zip(host, digits, strict=True))
    return "".join(plain).translate(_FULL_STOPS)

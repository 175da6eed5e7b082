"""What an exception of an attempt means, by type alone: the one place that classifies them."""

import socket
import ssl
from collections.abc import Iterator

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from callback_worker.delivery import Outcome
from callback_worker.destination import Blocked
from shared.errors import VoltlineError


class UnaskedBytes(VoltlineError):
    """A new connection carries bytes that nobody asked for."""


# In order: what stands above is narrower than what stands below it.
_CLASSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Outcome], ...] = (
    (Blocked, Outcome.BLOCKED),
    (TimeoutError, Outcome.TIMEOUT),
    (LineTooLong, Outcome.TOO_LARGE),
    ((socket.gaierror, aiohttp.ClientConnectorDNSError), Outcome.DNS),
    ((aiohttp.ClientSSLError, ssl.SSLError, ssl.CertificateError), Outcome.TLS),
    ((aiohttp.ClientPayloadError, aiohttp.ClientResponseError, aiohttp.InvalidURL, UnaskedBytes), Outcome.PROTOCOL),
    ((aiohttp.ClientConnectionError, OSError), Outcome.CONNECTION),
)


def classify(error: Exception) -> Outcome:
    """Return the class; what no entry names is `protocol`."""
    # aiohttp wraps what its parser raises; only the cause tells a header that is too long from one that is malformed.
    if any(isinstance(cause, LineTooLong) for cause in _causes(error)):
        return Outcome.TOO_LARGE
    return next((outcome for types, outcome in _CLASSES if isinstance(error, types)), Outcome.PROTOCOL)


def is_expected(error: Exception) -> bool:
    """Whether the error is the subscriber's or the network's doing, so not a fault of ours."""
    return any(isinstance(error, types) for types, _ in _CLASSES)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__

"""What an exception of an attempt means, by its type and how far the attempt had come: the one place that classifies.

VoltlineError
├── Blocked          the policy forbids the destination (see `destination`)
├── TlsFailed        no TLS came about: a bad certificate, no common protocol, an end in mid-handshake
├── UnaskedBytes     a new connection carries bytes that nobody asked for
├── InterimStorm     informational answers without end
└── HeadTooLarge     more status line and headers than anybody needs
"""

import socket
from enum import Enum, auto

import aiohttp

from callback_worker.delivery import Outcome
from callback_worker.destination import Blocked
from shared.errors import VoltlineError


class TlsFailed(VoltlineError):
    """The handshake failed, after TCP had connected."""


class UnaskedBytes(VoltlineError):
    """A new connection carries bytes that nobody asked for."""


class InterimStorm(VoltlineError):
    """One informational answer (1xx) after the other, and none that counts."""


class HeadTooLarge(VoltlineError):
    """The status line and headers, informational ones included, exceed their limit."""


class Phase(Enum):
    """How far an attempt has come."""

    DNS = auto()
    CONNECT = auto()
    TLS = auto()
    RESPONSE = auto()


_TIMEOUTS = {
    Phase.DNS: Outcome.TIMEOUT_DNS,
    Phase.CONNECT: Outcome.TIMEOUT_CONNECT,
    Phase.TLS: Outcome.TIMEOUT_TLS,
    Phase.RESPONSE: Outcome.TIMEOUT_RESPONSE,
}
# In order: what stands above is narrower than what stands below it.
_CLASSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Outcome], ...] = (
    (Blocked, Outcome.BLOCKED),
    (HeadTooLarge, Outcome.TOO_LARGE),
    (TlsFailed, Outcome.TLS),
    (socket.gaierror, Outcome.DNS),
    (
        (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, aiohttp.InvalidURL, UnaskedBytes, InterimStorm),
        Outcome.PROTOCOL,
    ),
    ((aiohttp.ClientConnectionError, OSError), Outcome.CONNECTION),
)


def classify(error: Exception, phase: Phase) -> Outcome:
    """Return the class; what no entry names is `protocol`."""
    if isinstance(error, TimeoutError):
        return _TIMEOUTS[phase]
    return next((outcome for types, outcome in _CLASSES if isinstance(error, types)), Outcome.PROTOCOL)


def is_expected(error: Exception) -> bool:
    """Whether the error is the subscriber's or the network's doing, so not a fault of ours."""
    return isinstance(error, TimeoutError) or any(isinstance(error, types) for types, _ in _CLASSES)

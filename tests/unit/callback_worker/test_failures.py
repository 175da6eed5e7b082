"""What an exception of an attempt means: by type and phase, never by its text."""

import socket
import ssl

import aiohttp
import pytest

from callback_worker.delivery import Outcome
from callback_worker.destination import Blocked
from callback_worker.failures import (
    HeadTooLarge,
    InterimStorm,
    Phase,
    TlsFailed,
    UnaskedBytes,
    classify,
    is_expected,
)

TIMEOUTS = {
    Phase.DNS: Outcome.TIMEOUT_DNS,
    Phase.CONNECT: Outcome.TIMEOUT_CONNECT,
    Phase.TLS: Outcome.TIMEOUT_TLS,
    Phase.RESPONSE: Outcome.TIMEOUT_RESPONSE,
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ConnectionTimeoutError(), OSError(110, "timed out")])
def test_a_timeout_is_of_the_phase_in_which_it_struck(error: Exception, phase: Phase) -> None:
    """Ours, aiohttp's and the kernel's."""
    assert isinstance(error, TimeoutError)
    assert classify(error, phase) is TIMEOUTS[phase]
    assert is_expected(error)


CLASSES = [
    (Blocked("x"), Outcome.BLOCKED),
    (socket.gaierror(socket.EAI_NONAME, "timeout"), Outcome.DNS),
    (socket.gaierror(socket.EAI_AGAIN, "x"), Outcome.DNS),
    (ConnectionRefusedError(), Outcome.CONNECTION),
    (ConnectionResetError(), Outcome.CONNECTION),
    (OSError(101, "Network is unreachable"), Outcome.CONNECTION),
    (aiohttp.ClientOSError(104, "reset"), Outcome.CONNECTION),
    (aiohttp.ServerDisconnectedError(), Outcome.CONNECTION),
    (TlsFailed("x"), Outcome.TLS),
    (HeadTooLarge("x"), Outcome.TOO_LARGE),
    (InterimStorm("x"), Outcome.PROTOCOL),
    (UnaskedBytes("x"), Outcome.PROTOCOL),
    (aiohttp.ClientPayloadError("x"), Outcome.PROTOCOL),
]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(("error", "outcome"), CLASSES)
def test_every_other_failure_has_its_class(error: Exception, outcome: Outcome, phase: Phase) -> None:
    """Whatever the phase, whatever the text."""
    assert classify(error, phase) is outcome
    assert is_expected(error)


@pytest.mark.parametrize("error", [ValueError("timeout"), ssl.SSLWantReadError(), KeyError("dns")])
def test_what_nobody_thought_of_is_a_failure_too(error: Exception) -> None:
    """It is logged, and the delivery is retried."""
    assert classify(error, Phase.RESPONSE) in (Outcome.PROTOCOL, Outcome.CONNECTION)


def test_every_outcome_fits_its_column() -> None:
    """varchar(32)."""
    assert max(len(outcome) for outcome in Outcome) <= 32

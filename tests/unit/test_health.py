"""What `/readyz` says of checks that pass, fail, break, and hang."""

import asyncio
import errno
import socket

import pytest
from asyncpg import AdminShutdownError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.testing import capture_logs

from shared import health
from shared.health import Readiness


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.05)


async def passes() -> str | None:
    return None


async def fails() -> str | None:
    return "no consumer"


async def breaks() -> str | None:
    raise ConnectionRefusedError("postgresql://user@host refused")


async def test_every_check_has_its_word_and_one_fault_makes_unready() -> None:
    """An error's text may name hosts and users: it is in the log, not in the answer."""
    assert await Readiness({"one": passes}).ask() == (True, {"one": "ok"})
    ready, words = await Readiness({"one": passes, "two": fails, "three": breaks}).ask()
    assert (ready, words) == (False, {"one": "ok", "two": "no consumer", "three": "ConnectionRefusedError"})


@pytest.mark.parametrize(
    ("error", "word", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot resolve the host", "not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "10.0.0.1"), "Connection refused", "10.0.0.1"),
        (OSError("Multiple exceptions: ::1, 127.0.0.1"), "no address of the host answers", "Multiple exceptions"),
        (PoolTimeout("no connection is free", code="3o7r"), "TimeoutError", "no connection is free"),
        (
            OperationalError("SELECT 1", {}, AdminShutdownError("terminating connection")),
            "AdminShutdownError",
            "AdminShutdownError 57P01: terminating connection",
        ),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_a_check_that_breaks_is_told_in_words(error: Exception, word: str, reason: str) -> None:
    """No SQL, no links to a library's manual: neither in the answer nor in the log."""

    async def breaks() -> str | None:
        raise error

    with capture_logs() as logs:
        assert await Readiness({"database": breaks}).ask() == (False, {"database": word})
    (line,) = logs
    assert (line["event"], line["error"]) == ("check_failed", type(error).__name__)
    assert reason in line["reason"]
    assert not any(part in line["reason"] for part in ("SELECT", "http", "\n"))


async def test_a_check_that_hangs_is_a_fault_and_is_not_asked_again_meanwhile() -> None:
    """Also one that does not heed its cancellation: probes would pile up, and take every connection of the pool."""
    asked, open_again = 0, asyncio.Event()

    async def clings() -> str | None:
        nonlocal asked
        asked += 1
        while not open_again.is_set():
            try:
                await open_again.wait()
            except asyncio.CancelledError:
                continue
        return None

    readiness = Readiness({"database": clings})
    for _ in range(3):
        async with asyncio.timeout(30):
            assert await readiness.ask() == (False, {"database": "no answer within 0.05 s"})
    assert asked == 1
    open_again.set()
    await asyncio.sleep(0)
    assert await readiness.ask() == (True, {"database": "ok"})


async def test_probes_at_once_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 30.0)
    asked = 0

    async def counts() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return None

    readiness = Readiness({"database": counts})
    assert await asyncio.gather(*(readiness.ask() for _ in range(5))) == [(True, {"database": "ok"})] * 5
    assert asked == 1

"""What `/readyz` says of checks that pass, fail, break, and hang."""

import asyncio

import pytest

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
        async with asyncio.timeout(5):
            assert await readiness.ask() == (False, {"database": "no answer within 0.05 s"})
    assert asked == 1
    open_again.set()
    await asyncio.sleep(0)
    assert await readiness.ask() == (True, {"database": "ok"})


async def test_probes_at_once_share_one_check() -> None:
    asked = 0

    async def counts() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return None

    readiness = Readiness({"database": counts})
    assert await asyncio.gather(*(readiness.ask() for _ in range(5))) == [(True, {"database": "ok"})] * 5
    assert asked == 1

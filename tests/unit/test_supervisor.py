"""The supervisor of a connection: it never ends by itself, and always by cancellation."""

import asyncio

import pytest

from shared.broker import connection
from shared.broker.connection import backoff_s, supervise


async def test_it_serves_again_after_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BACKOFF_FIRST_S", 0.001)
    ends = iter([OSError("refused"), RuntimeError("odd"), asyncio.CancelledError(), None])
    served = asyncio.Event()

    async def serve() -> None:
        try:
            end = next(ends)
        except StopIteration:
            served.set()
            await asyncio.Event().wait()
        else:
            if end is not None:
                raise end

    task = asyncio.create_task(supervise(serve, what="test"))
    async with asyncio.timeout(30):
        await served.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_while_a_lost_connection_closes_is_not_swallowed() -> None:
    """The library's close may hang, and may raise a CancelledError of its own."""
    closing = asyncio.Event()

    async def serve() -> None:
        try:
            raise OSError("lost")
        finally:
            closing.set()
            await asyncio.wait([asyncio.create_task(asyncio.sleep(0.2))])

    task = asyncio.create_task(supervise(serve, what="test"))
    await closing.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)
    assert done
    assert task.cancelled()


@pytest.mark.parametrize("failures", [0, 1, 5, 50, 10_000])
def test_the_wait_grows_up_to_a_limit_and_has_jitter(failures: int) -> None:
    shortest, longest = backoff_s(failures, 0.0), backoff_s(failures, 0.999)
    assert 0 < shortest < longest <= connection.BACKOFF_MOST_S

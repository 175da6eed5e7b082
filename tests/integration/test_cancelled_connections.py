"""Whoever is cancelled ends, at whatever moment of its connecting: else a drain, or a failing process, would hang."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shared.broker.connection import supervise
from shared.broker.consumer import Consumer
from shared.broker.publisher import Publisher
from shared.topology import COMMANDS, SESSION_COMMANDS
from tests.servers import House

# Connecting takes some 30 ms; steps of an odd length meet other moments in every run.
STEP_S = 0.00031
STEPS = 200
ENDS_WITHIN_S = 10.0

Run = Callable[[], Coroutine[Any, Any, None]]


async def ends_when_cancelled(run: Run, after_s: float) -> None:
    running = asyncio.create_task(run())
    await asyncio.sleep(after_s)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=ENDS_WITHIN_S)
    running.cancel()
    assert done, f"still running {ENDS_WITHIN_S} s after a cancellation at {after_s * 1000:.2f} ms"


@pytest.mark.parametrize("kind", ["publisher", "consumer"])
async def test_a_connection_that_is_cancelled_at_any_moment_ends(house: House, kind: str) -> None:
    """`asyncio.wait_for` of Python 3.11 loses a cancellation that comes together with an answer of the broker."""
    for step in range(STEPS):
        publisher = Publisher(house.amqp_url, name="test", probes=COMMANDS)
        consumer = Consumer(house.amqp_url, SESSION_COMMANDS, name="test", prefetch=10)
        await ends_when_cancelled(publisher.run if kind == "publisher" else consumer.run, step * STEP_S)


async def test_a_supervisor_whose_work_loses_a_cancellation_ends() -> None:
    """In the place of a library that does."""

    async def loses_it() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    await ends_when_cancelled(lambda: supervise(loses_it, what="test"), 0.01)

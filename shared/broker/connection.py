"""A plain connection under an own supervisor: connect, serve, wait for its end, back off with jitter.

aio-pika's robust connection loses return callbacks and consumers on a reconnect and retries without jitter.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aio_pika
from aio_pika.exceptions import AMQPError
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ConnectionNotAllowed
from yarl import URL

from shared.broker.properties import install_tolerant_decoder
from shared.errors import NotProvisioned
from shared.failures import log_failure
from shared.logs import get_logger

log = get_logger(__name__)

# A dead peer is noticed after three missed heartbeats, so well within the 30 s that readiness may take.
HEARTBEAT_S = 5
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
# A connection that lived this long was healthy: its end starts the backoff anew.
HEALTHY_AFTER_S = 10.0


@asynccontextmanager
async def open_channel(url: str, *, name: str, confirms: bool) -> AsyncIterator[AbstractChannel]:
    """Yield a channel on a connection of its own; both are closed at the end. `name` shows in the management UI."""
    install_tolerant_decoder()
    target = URL(url).update_query(heartbeat=HEARTBEAT_S, name=name)
    try:
        connection = await aio_pika.connect(target, timeout=CONNECT_TIMEOUT_S)
    except StopAsyncIteration as error:  # so the library calls an end in the midst of the handshake
        raise ConnectionError("the connection ended before the broker had answered") from error
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            await channel.initialize()
            underlay = await channel.get_underlay_channel()
        heed_cancellation()
        yield underlay
    finally:
        await apart(connection.close(), timeout_s=CLOSE_TIMEOUT_S)


def heed_cancellation() -> None:
    """Raise CancelledError where the task was cancelled and does not know it: called after what asks the library.

    `asyncio.wait_for`, which it uses, loses a cancellation that comes together with the answer (Python 3.11).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def apart(work: Awaitable[Any], *, timeout_s: float) -> None:
    """Do it in a task of its own, for so long at most: a hang, an error, or aiormq's own CancelledError stays there."""
    task = asyncio.create_task(_silently(work))
    try:
        await asyncio.wait([task], timeout=timeout_s)
    finally:
        task.cancel()


async def _silently(work: Awaitable[Any]) -> None:
    with suppress(Exception):
        await work


async def supervise(serve: Callable[[], Awaitable[None]], *, what: str) -> None:
    """Call `serve` for ever; after each end wait a little longer, up to a limit. Ends only by cancellation."""
    failures = 0
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        reason = await _reason_of_end(serve)
        heed_cancellation()
        failures = 0 if loop.time() - began > HEALTHY_AFTER_S else failures + 1
        delay_s = backoff_s(failures, random.random())
        log.warning("broker_connection_ended", what=what, reason=reason, retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)


async def _reason_of_end(serve: Callable[[], Awaitable[None]]) -> str:
    """Return why serving ended; a cancellation of the caller passes through, one leaked by aiormq does not."""
    task = asyncio.current_task()
    assert task is not None
    try:
        await serve()
    except asyncio.CancelledError:
        if task.cancelling():
            raise
        return "connection stuck"
    except (ChannelNotFoundEntity, ChannelAccessRefused, ConnectionNotAllowed) as error:
        return str(NotProvisioned(str(error)))
    except (AMQPError, NotProvisioned, OSError, TimeoutError, RuntimeError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # the edge of a loop that must never end: say it in full, then connect anew
        log_failure("broker_connection_failed", error)
        return "unexpected error"
    return "closed"


def backoff_s(failures: int, chance: float) -> float:
    """Return the wait before the next try: doubling, capped, between half and all of it by `chance` in [0, 1)."""
    most: float = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
    return most * (0.5 + chance / 2)

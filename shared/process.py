"""How a worker process begins and ends: settings, logs, signals, drain, exit status."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

from shared import logs
from shared.failures import log_failure
from shared.logs import get_logger
from shared.settings import Settings

try:
    import uvloop as _loops
except ImportError:  # no uvloop on Windows
    import asyncio as _loops  # type: ignore[no-redef]

log = get_logger(__name__)

# SIGTERM drains within this; orchestrators send SIGKILL after 30 s by default.
DRAIN_S = 25.0
EXIT_DRAIN_TOO_LONG = 1
EXIT_FAILED = 1
# A database that hangs does not even take a cancellation.
CLOSE_S = 3.0

Serve = Callable[[asyncio.Event], Awaitable[None]]


def run(settings: Settings, serve: Serve, *, name: str) -> NoReturn:
    """Run `serve` until it returns, which it does soon after the event that it is given is set.

    SIGTERM and SIGINT set the event. The process exits with 0 once `serve` returns; with 1 when that takes over 25 s,
    and when `serve` raises, or returns by itself.
    """
    logs.configure(format=settings.log_format, level=settings.log_level)
    with asyncio.Runner(loop_factory=_loops.new_event_loop) as runner:
        runner.run(_serve_until_drained(serve, name))
    raise SystemExit(0)


async def _serve_until_drained(serve: Serve, name: str) -> None:
    drain = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _begin_drain, drain, number, name)
    log.info("process_started", process=name, pid=os.getpid())
    try:
        await serve(drain)
    except (Exception, SystemExit) as error:  # uvicorn leaves by SystemExit, and has said why
        for each in _leaves(error):
            log_failure("process_failed", each, process=name)
        _fail()
    if not drain.is_set():
        log.error("process_ended_by_itself", process=name)
        _fail()
    for number in (signal.SIGTERM, signal.SIGINT):
        # The loop's end would give them back their default, which kills: what is done cannot be interrupted.
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    log.info("process_drained", process=name)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in _leaves(each)]


def _fail() -> None:
    """Leave at once: threads that hang would keep the process, which does nothing any more."""
    os._exit(EXIT_FAILED)


def end_soon() -> None:
    """Say that the process can work no longer: it leaves with 1, also where something does not let itself be ended."""
    asyncio.get_running_loop().call_later(CLOSE_S, _fail)


def settled() -> None:
    """Say that nothing is in hand any more: closing what hangs may take this long, then the process leaves with 0."""
    asyncio.get_running_loop().call_later(CLOSE_S, os._exit, 0)


def _begin_drain(drain: asyncio.Event, number: int, name: str) -> None:
    if drain.is_set():
        return
    log.info("drain_started", process=name, signal=signal.Signals(number).name, limit_s=DRAIN_S)
    drain.set()
    asyncio.get_running_loop().call_later(DRAIN_S, _give_up, name)


def _give_up(name: str) -> None:
    """Leave at once: what is in hand is unacknowledged and comes again."""
    log.error("drain_took_too_long", process=name, limit_s=DRAIN_S)
    os._exit(EXIT_DRAIN_TOO_LONG)

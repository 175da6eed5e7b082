"""Processes that live on: stopped and woken, replaced one by one under load, with a clock that jumps."""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from ops.local_stack.processes import Name, Process
from tests.faults.broker_faults import only_honest_refusals
from tests.faults.crew import NeverFired, handled
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site
from tests.proxy import Way
from tests.wrong_clock import WrongClock

STOPPED_S = 4.0
# Beyond heartbeat and idle-in-transaction timeout: broker and database have both given it up.
LONG_STOPPED_S = 28.0
STEPPED_S = 3.0
# As many attempts as begin in this time are in hand, all of them without an answer.
UNANSWERED_S = 0.4
# Older than any attempt of a worker that is awake.
SLEPT_S = 1.2
# The others look for what is due every second; a transaction that sleeps, too, holds its locks for a while.
REPEATED_WITHIN_S = 40.0
WORKS_WITHIN_S = 10.0
POLL_S = 0.1

# What time alone would do to the leases of a worker that has stopped.
_END_LEASES = """UPDATE callback_deliveries SET "leasedUntil" = now()
    WHERE state = 'PENDING' AND id IN (SELECT "callbackId" FROM callback_attempts
        WHERE outcome = 'open' AND "startedAt" < now() - interval '0.8 s') RETURNING id"""
_COUNT_PENDING = "SELECT count(*) FROM callback_deliveries WHERE id = ANY($1) AND state = 'PENDING'"


def stopped(name: Name, seconds: float, *, is_long: bool = False) -> Fault:
    async def inject(site: Site, _: Load) -> str:
        zombie = await site.crew.one(name)
        zombie.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(0.2)
            state = state_of(zombie)
            await asyncio.sleep(seconds)
        finally:
            zombie.signal(signal.SIGCONT)
        if state != "T":
            raise NeverFired(f"it was in state {state}")
        return f"state {state} for {seconds:.0f} s"

    return Fault(f"SIGSTOP {name} for {seconds:.0f} s", inject, is_long=is_long)


async def overtaken(site: Site, _: Load) -> str:
    """A callback worker sleeps through its leases; others repeat its attempts; then it wakes with its old results."""
    zombie = site.crew.members[Name.CALLBACK_WORKER][0]
    for _try in range(5):
        await _asleep_before_its_answers(site, zombie)
        try:
            await asyncio.sleep(SLEPT_S)
            taken = [row["id"] for row in await site.database.fetch(_END_LEASES)]
            await _repeated(site, taken)
        finally:
            zombie.signal(signal.SIGCONT)
        if taken:
            return f"{len(taken)} leases ended in its sleep"
    raise NeverFired("it held no lease when it was stopped")


async def _asleep_before_its_answers(site: Site, zombie: Process) -> None:
    """Stop it with attempts in hand that the subscriber has had: their answers wait for it."""
    site.subscriber_link.hold(Way.BACK)
    try:
        await asyncio.sleep(UNANSWERED_S)
        zombie.signal(signal.SIGSTOP)
    finally:
        site.subscriber_link.restore()


async def _repeated(site: Site, callback_ids: Sequence[UUID]) -> None:
    deadline = time.monotonic() + REPEATED_WITHIN_S
    while await site.database.value(_COUNT_PENDING, callback_ids):
        if time.monotonic() > deadline:
            raise NeverFired("nobody repeated its attempts")
        await asyncio.sleep(POLL_S)


async def rolled(site: Site, _: Load) -> str:
    """A new process, ready, for each old one, a kind beside the others; each drains and exits with 0 under load."""

    async def replaced(old: Process) -> int:
        await site.crew.join(site.crew.launch(old.name))
        site.crew.leave(old)
        return await old.stop()

    codes: list[int] = []
    for together in zip(*(list(members) for members in site.crew.members.values()), strict=True):
        codes += await asyncio.gather(*(replaced(old) for old in together))
    assert set(codes) == {0}, f"exit codes {codes}"
    return f"{len(codes)} processes replaced, every exit 0"


def stepped(name: Name, step: str) -> Fault:
    """One more process of the kind; its clock jumps while it works. Nobody dies, so nothing may come twice."""

    async def inject(site: Site, _: Load) -> str:
        folder = Path(tempfile.mkdtemp(prefix="voltline-clock-"))
        clock = WrongClock.made_in(folder)
        if clock is None:
            raise NeverFired("no libfaketime on this machine: apt-get install faketime")
        clock.set("+0")
        process = site.crew.launch(name, LOG_LEVEL="debug", **clock.environment)
        await site.crew.join(process)
        await _works(process)
        clock.set(step)
        await asyncio.sleep(STEPPED_S)
        site.crew.leave(process)
        code = await process.stop()
        shutil.rmtree(folder, ignore_errors=True)
        assert code == 0, f"exit {code}"
        return _off_by(process)

    return Fault(f"clock of one {name} {step}", inject, may_repeat=False, is_long=name is Name.GATEWAY)


async def _works(process: Process) -> None:
    """Wait until it has done something."""
    deadline = time.monotonic() + WORKS_WITHIN_S
    while not await handled(process):
        if time.monotonic() > deadline:
            raise NeverFired("it has nothing to do")
        await asyncio.sleep(POLL_S)


def state_of(process: Process) -> str:
    """The kernel's word for it: T is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def _off_by(process: Process) -> str:
    """How far its last line is from our time, as proof."""
    line = json.loads(process.log.read_text().strip().splitlines()[-1])
    said = datetime.fromisoformat(str(line["timestamp"]))
    off_s = (said - datetime.fromtimestamp(time.time(), UTC)).total_seconds()
    if abs(off_s) < 3000:
        raise NeverFired(f"its clock is off by {off_s:.0f} s alone")
    return f"its last line is dated {off_s:+.0f} s off"


FAULTS = (
    stopped(Name.GATEWAY, STOPPED_S),
    stopped(Name.SESSION_WORKER, STOPPED_S),
    Fault("callback_worker sleeps through its leases", overtaken),
    stopped(Name.SESSION_WORKER, LONG_STOPPED_S, is_long=True),
    stopped(Name.CALLBACK_WORKER, LONG_STOPPED_S, is_long=True),
    Fault("rolling restart of everything", rolled, check=only_honest_refusals),
    *(stepped(name, step) for name in Name for step in ("+1h", "-1h")),
)

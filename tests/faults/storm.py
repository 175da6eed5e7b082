"""The storm: as much load as the machine carries, a random fault every few seconds, one ledger that must balance."""

import asyncio
import math
import time

from tests.faults import database_faults, life_faults, link_faults, process_faults
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

FAULT_EVERY_S = 5.0
# A story is 1.9 commands on average: a request is one, a session three, a partner's two.
COMMANDS_PER_STORY = 1.9
# Quick ones, of every kind; those that destroy a queue stay out.
FAULTS: tuple[Fault, ...] = (
    *process_faults.FAULTS,
    *link_faults.FAULTS,
    *(fault for fault in database_faults.FAULTS if fault.name in (
        "database connections terminated", "database table locked", "database read-only", "database restart",
        "session_worker: commit without an answer",
    )),
    *(fault for fault in life_faults.FAULTS if fault.name.startswith("SIGSTOP") and not fault.is_long),
)  # fmt: skip


def storm(*, minutes: float = 5, rate: float = 300) -> Fault:
    """Commands begin at about `rate` a second for so long; a fault every five seconds."""

    async def inject(site: Site, load: Load) -> str:
        ends_at = time.monotonic() + 60 * minutes
        fired: list[str] = []
        failed: list[str] = []
        while (began := time.monotonic()) < ends_at:
            fault = site.chance.choice(FAULTS)
            try:
                await fault.inject(site, load)
                fired.append(fault.name)
            except NeverFired as reason:
                failed.append(f"{fault.name}: {reason}")
            for link in (*site.links.values(), site.subscriber_link):
                link.restore()
            await site.crew.heal()
            await asyncio.sleep(max(0.0, FAULT_EVERY_S - (time.monotonic() - began)))
        assert len(fired) > len(failed), f"of {len(fired) + len(failed)} faults {len(failed)} never fired: {failed}"
        per_s = len(load.ledger.acknowledged) / (60 * minutes)
        return f"{len(fired)} faults, {len(failed)} never fired, {per_s:.0f} acknowledged/s, {load.left_out} left out"

    name = f"storm of {minutes:g} min at {rate:g}/s"
    return Fault(name, inject, rate=rate / COMMANDS_PER_STORY, whole_for_s=math.inf, inject_most_s=60 * minutes + 120)

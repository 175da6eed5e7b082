"""The storm: as much load as the machine carries, a random fault every five seconds, one ledger that must balance."""

import asyncio
import math
import time

from tests.faults import database_faults, life_faults, link_faults, process_faults
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

FAULT_EVERY_S = 5.0
# On average: half of the stories are one command, three of ten are three, two of ten are two.
COMMANDS_PER_STORY = 1.8
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
        fired: list[str] = []
        failed: list[str] = []

        async def strike(fault: Fault) -> None:
            try:
                await fault.inject(site, load)
                fired.append(fault.name)
            except NeverFired as reason:  # one may end what another began
                failed.append(f"{fault.name}: {reason}")

        ends_at = time.monotonic() + 60 * minutes
        async with asyncio.TaskGroup() as strikes:
            while time.monotonic() < ends_at:
                strikes.create_task(strike(site.chance.choice(FAULTS)))
                await asyncio.sleep(FAULT_EVERY_S)
        assert len(fired) > 2 * len(failed), f"{len(fired)} faults fired, {len(failed)} did not: {failed}"
        return f"{len(fired)} faults, {len(failed)} never fired; {_told(load, 60 * minutes)}"

    name = f"storm of {minutes:g} min at {rate:g}/s"
    return Fault(name, inject, rate=rate / COMMANDS_PER_STORY, whole_for_s=math.inf, inject_most_s=60 * minutes + 120)


def _told(load: Load, seconds: float) -> str:
    """What callers did and were told, a second; who is too many for the machine is left out, and counted."""
    answers = load.ledger.answers()
    refused = sum(count for what, count in answers.items() if what.startswith(("503", "nack")))
    acknowledged = len(load.ledger.acknowledged)
    return (
        f"{(acknowledged + answers.total()) / seconds:.0f} calls/s, {acknowledged / seconds:.0f}/s acknowledged, "
        f"{refused} refused by 503 or nack, {answers.total() - refused} without an answer, {load.left_out} left out"
    )

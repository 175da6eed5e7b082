"""Processes that die: at any moment, and at the places where it matters most."""

import asyncio

from ops.local_stack.processes import Name
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

SIGKILLED = -9
KILLS = 5
KILL_EVERY_S = 0.4
# Past the first few batches, so that it dies in the middle of work.
REACHED = 3

CRASH_POINTS = (
    "session_worker.before_commit",
    "session_worker.between_commit_and_ack",
    "session_worker.between_ack_and_publish",
    "session_worker.between_publish_and_delete",
    "callback_worker.before_commit",
    "callback_worker.between_commit_and_post",
    "callback_worker.between_post_and_result",
)


def killed(name: Name) -> Fault:
    async def inject(site: Site, _: Load) -> str:
        return await site.crew.kill_one(name)

    return Fault(f"kill -9 {name}", inject)


async def killed_at_random(site: Site, _: Load) -> str:
    return await kill_at_random(site, tuple(Name), KILLS)


async def kill_at_random(site: Site, names: tuple[Name, ...], count: int) -> str:
    """Kill whoever it hits, whenever; nobody waits for the one before to be replaced."""
    replaced = []
    for _kill in range(count):
        await asyncio.sleep(KILL_EVERY_S * 2 * site.chance.random())
        name = site.chance.choice([name for name in names if site.crew.members[name]] or names)
        replaced.append((name, asyncio.create_task(site.crew.kill_one(name))))
    await asyncio.gather(*(task for _, task in replaced))
    return f"{count} killed: {', '.join(name for name, _ in replaced)}"


def crashes(point: str) -> Fault:
    """One more process of the kind joins in, and dies there."""

    async def inject(site: Site, _: Load) -> str:
        process = site.crew.launch(Name(point.partition(".")[0]), VOLTLINE_CRASH_POINT=f"{point}:{REACHED}")
        code = await site.crew.ended(process)
        if code != SIGKILLED:
            raise NeverFired(f"exit {code}:\n{process.log_tail()}")
        return f"exit {code} there"

    return Fault(f"crash {point}", inject)


FAULTS = (
    *(killed(name) for name in Name),
    *(crashes(point) for point in CRASH_POINTS),
    Fault("kill -9 at random moments", killed_at_random),
)

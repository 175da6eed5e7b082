"""Processes that die: at any moment, and at the places where it matters most."""

from ops.local_stack.processes import Name
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

SIGKILLED = -9
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


def crashes(point: str) -> Fault:
    """One more process of the kind joins in, and dies there."""

    async def inject(site: Site, _: Load) -> str:
        process = site.crew.launch(Name(point.partition(".")[0]), VOLTLINE_CRASH_POINT=f"{point}:{REACHED}")
        code = await site.crew.ended(process)
        if code != SIGKILLED:
            raise NeverFired(f"exit {code}:\n{process.log_tail()}")
        return f"exit {code} there"

    return Fault(f"crash {point}", inject)


FAULTS = (*(killed(name) for name in Name), *(crashes(point) for point in CRASH_POINTS))

"""Money: workers killed around a call to the provider, the database killed, the provider's events again and again."""

import asyncio

from ops.local_stack.processes import Name
from tests.faults import database_faults
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.process_faults import SIGKILLED, kill_at_random
from tests.faults.row import Fault, Inject
from tests.faults.site import Site

STORIES_PER_S = 4.0
KILLS = 4
# Until there are sessions with links, payments and refunds.
PAYING_AFTER_S = 1.5
STEPS = ("CreateLink", "SendRefund")
WEIGHTS = {"payment": 1}

# What time alone would do, which takes 50 s: another worker takes over what the killed one had leased.
_END_LEASES = """UPDATE payments SET "leasedUntil" = now() WHERE "leasedUntil" > now() RETURNING "sessionId" """


def crashes(where: str, point: str) -> Fault:
    """One more worker for each kind of step; each dies there, with that step in hand."""

    async def inject(site: Site, _: Load) -> str:
        workers = [site.crew.launch(Name.SESSION_WORKER, VOLTLINE_CRASH_POINT=f"{point}@{step}") for step in STEPS]
        codes = await asyncio.gather(*(site.crew.ended(worker) for worker in workers))
        if set(codes) != {SIGKILLED}:
            raise NeverFired(f"exit codes {codes}")
        taken = await site.database.fetch(_END_LEASES)
        return f"killed with {' and '.join(STEPS)} in hand, {len(taken)} leases ended"

    return _of_money(f"payment: killed between {where}", inject)


async def killed_at_random(site: Site, _: Load) -> str:
    await asyncio.sleep(PAYING_AFTER_S)
    told = await kill_at_random(site, (Name.SESSION_WORKER,), KILLS)
    taken = await site.database.fetch(_END_LEASES)
    return f"{len(taken)} leases ended, {told}"


async def database_killed(site: Site, load: Load) -> str:
    await asyncio.sleep(PAYING_AFTER_S)
    proof = await database_faults.killed(site, load)
    await site.database.fetch(_END_LEASES)
    return proof


def _of_money(name: str, inject: Inject) -> Fault:
    return Fault(name, inject, weights=WEIGHTS, rate=STORIES_PER_S)


FAULTS = (
    crashes("stored key and call", "session_worker.between_note_and_call"),
    crashes("call and commit", "session_worker.between_call_and_commit"),
    _of_money("payment: workers killed at random moments", killed_at_random),
    _of_money("payment: database kill -9", database_killed),
)

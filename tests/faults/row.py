"""A row of the programme: one fault under load, its proof, and what the auditor found after it."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ops.local_stack import StackError
from tests.faults.auditor import audit
from tests.faults.crew import NeverFired
from tests.faults.findings import Findings
from tests.faults.ledger import Ledger
from tests.faults.load import WEIGHTS, WHOLE_FOR_S, Load
from tests.faults.site import Site

log = logging.getLogger(__name__)

# Commands begin at this rate unless told otherwise; two cores carry everything beside it, twice.
RATE = 25.0
# Load before the fault, so that it meets work in every place; after it, until every worker has handled some.
BEFORE_S = 0.7
WORK_WITHIN_S = 30.0
# What a crash left is found by a sweeper after 12 s, a lease ends after 13 s, an outage is waited out for 25 s.
SETTLE_MOST_S = 90.0
INJECT_MOST_S = 150.0


Inject = Callable[[Site, Load], Awaitable[str]]


@dataclass(frozen=True)
class Fault:
    """`inject` breaks something, mends it, and returns the proof that it was broken; else it raises `NeverFired`.

    `prepare` runs before the load, when nothing is under way; `check` names what callers should not have been told.
    Without `may_repeat` no callback may come twice, even where the log of its attempts would explain it.
    `weights` say which stories the load is made of; after `whole_for_s` it is eased to a quarter of its `rate`.
    `is_alone`: it would destroy, or keep for long, what earlier rows still wait for. `is_long`: the long programme's.
    """

    name: str
    inject: Inject
    prepare: Callable[[Site], Awaitable[None]] | None = None
    check: Callable[[Ledger], list[str]] | None = None
    is_alone: bool = False
    is_long: bool = False
    may_repeat: bool = True
    weights: Mapping[str, int] = field(default_factory=lambda: WEIGHTS)
    rate: float = RATE
    whole_for_s: float = WHOLE_FOR_S
    inject_most_s: float = INJECT_MOST_S


@dataclass(eq=False)
class Result:
    """How a row ended. `troubles` are failures that no count shows."""

    number: int
    name: str
    seed: int
    proof: str = ""
    troubles: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    took_s: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not self.troubles and self.findings.is_clean


async def run_row(
    site: Site, fault: Fault, result: Result, *, settle_s: float = SETTLE_MOST_S
) -> "asyncio.Task[Findings]":
    """Run the fault under load and note how it went; return the audit, which goes on beside later rows."""
    began = time.monotonic()
    log.warning("row %d begins: %s", result.number, result.name)
    site.chance.seed(f"{result.seed} {result.name}")
    ledger = Ledger(f"{result.number:02d}-{fault.name.replace(' ', '-')}-{result.seed}")
    load = Load(
        ledger,
        gateways=site.crew.gateways,
        partner=site.partner,
        callback_url=site.callback_url(ledger.name),
        rate=fault.rate,
        chance=random.Random(f"{result.seed} {result.name} load"),
        weights=fault.weights,
        whole_for_s=fault.whole_for_s,
    )
    if fault.prepare is not None:
        await fault.prepare(site)
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(BEFORE_S)
    await _inject(site, fault, load, result)
    log.warning("row %d is healed", result.number)
    result.troubles += [
        f"ready, but handles nothing: {who}" for who in await site.crew.idle_workers(timeout_s=WORK_WITHIN_S)
    ]
    load.stop()
    await loading
    if not ledger.acknowledged:
        result.troubles.append("nothing was acknowledged: the row proves nothing")
    result.troubles += fault.check(ledger) if fault.check is not None else []
    result.took_s = time.monotonic() - began
    log.warning("row %d has run: %s %s", result.number, result.proof, result.troubles)
    return asyncio.create_task(audit(site, ledger, timeout_s=settle_s, may_repeat=fault.may_repeat))


async def _inject(site: Site, fault: Fault, load: Load, result: Result) -> None:
    try:
        async with asyncio.timeout(fault.inject_most_s):
            result.proof = await fault.inject(site, load)
    except NeverFired as reason:
        result.troubles.append(f"never fired: {reason}")
    except AssertionError as reason:
        result.troubles.append(str(reason))
    except Exception as error:  # a row that breaks is a failed row; the others run all the same
        log.exception("row %d broke", result.number)
        result.troubles.append(f"{type(error).__name__}: {error}")
    log.warning("row %d is mended: %s", result.number, result.proof)
    for link in (*site.links.values(), site.subscriber_link):
        link.restore()
    try:
        result.troubles += [f"died unasked: {who}" for who in await site.crew.heal()]
    except StackError as error:
        result.troubles.append(str(error))

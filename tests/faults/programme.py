"""Runs rows one after another on one site; their audits go on beside later rows, which is one fault more."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ops.local_stack.folder import locked, new_folder
from tests.faults import report
from tests.faults.auditor import Findings
from tests.faults.row import SETTLE_MOST_S, Fault, Result, run_row
from tests.faults.site import Site, open_house, open_site, versions

Audits = list[tuple[Result, "asyncio.Task[Findings]"]]


def run_programme(
    faults: Sequence[Fault],
    *,
    seed: int | None,
    command: str,
    minutes: float | None = None,
    writes: bool = True,
    settle_s: float = SETTLE_MOST_S,
) -> int:
    """Run the rows (again and again for `minutes`), print and write the table; return 1 unless all is clean."""
    screen = report.console()
    seed = seed if seed is not None else secrets.randbelow(1_000_000)
    screen.print(f"seed {seed}")
    began = time.monotonic()
    with open_house() as (servers, house, logins), locked(new_folder()) as folder:

        async def work() -> tuple[list[Result], dict[str, str]]:
            async with open_site(servers, house, logins, Path(folder), seed) as site:
                results = await _run_all(screen, site, faults, minutes=minutes, settle_s=settle_s)
                return results, await versions(site)

        results, made_on = asyncio.run(work())
    took_s = time.monotonic() - began
    report.show(screen, results, took_s)
    if writes:
        report.write(results, command=command, seed=seed, versions=made_on, took_s=took_s)
    return int(not results or not all(result.is_clean for result in results))


async def _run_all(
    screen: Console, site: Site, faults: Sequence[Fault], *, minutes: float | None, settle_s: float
) -> list[Result]:
    audits: Audits = []
    ends_at = None if minutes is None else time.monotonic() + 60 * minutes
    number = done = 0
    while True:
        for fault in faults:
            number += 1
            if fault.is_alone:
                done = await _finish(audits, done)
            result, auditing = await run_row(site, fault, number, settle_s=settle_s)
            audits.append((result, auditing))
            mark = "✗" if result.troubles else "·"
            screen.print(f"{mark} {number:3d} {fault.name} ({result.took_s:.1f} s) {result.proof}", markup=False)
        if ends_at is None or time.monotonic() > ends_at:
            break
    await _finish(audits, done)
    return [result for result, _ in audits]


async def _finish(audits: Audits, done: int) -> int:
    for result, auditing in audits[done:]:
        try:
            result.findings = await auditing
        except Exception as error:  # a row that cannot be audited is a failed row; the others count all the same
            result.troubles.append(f"audit: {type(error).__name__}: {error}")
    return len(audits)

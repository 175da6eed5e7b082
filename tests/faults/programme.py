"""Runs rows in lanes, the longest first, tells of each as it ends, and of all of them at the end."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import report
from tests.faults.lanes import Turn, Way, run_lanes
from tests.faults.row import SETTLE_MOST_S, Fault
from tests.faults.rows import lasts_s

# Two cores carry so many.
LANES = 2


def run_programme(
    faults: Sequence[Fault],
    *,
    seed: int | None,
    command: str,
    lanes: int = LANES,
    minutes: float | None = None,
    writes: bool = True,
    settle_s: float = SETTLE_MOST_S,
    record: Path | None = None,
    keeps_logs: bool = False,
) -> int:
    """Run the rows (again and again for `minutes`), print and write the table; return 1 unless all is clean."""
    screen = report.console()
    seed = seed if seed is not None else secrets.randbelow(1_000_000)
    screen.print(f"seed {seed}, {len(faults)} rows in {lanes} lanes")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="voltline-faults-"))
    run = run_lanes(
        Way(faults, folder, settle_s),
        _turns(faults, seed, None if minutes is None else began + 60 * minutes),
        count=min(lanes, len(faults)),
        tell=lambda result: report.tell(screen, result),
    )
    took_s = time.monotonic() - began
    report.show(screen, run, took_s)
    failed = bool(run.troubles) or not run.results or not all(result.is_clean for result in run.results)
    if failed:
        report.tell_how_to_repeat(screen, run.results, command=command, logs=folder)
    elif keeps_logs:
        screen.print(f"logs: {folder}", markup=False, soft_wrap=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if record is not None:
        report.record(run.results, record)
    if writes:
        report.write(run, command=command, seed=seed, took_s=took_s)
    return int(failed)


def _turns(faults: Sequence[Fault], seed: int, ends_at: float | None) -> Iterator[Turn]:
    """Every row once, the longest first, so that lanes end together; then again while there is time."""
    longest_first = sorted(range(len(faults)), key=lambda index: -lasts_s(faults[index]))
    for number in range(1_000_000):
        for index in longest_first:
            yield Turn(number * len(faults) + index + 1, index, seed + number)
            if number and ends_at is not None and time.monotonic() > ends_at:
                return
        if ends_at is None or time.monotonic() > ends_at:
            return

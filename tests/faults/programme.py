"""Runs rows in lanes, the longest first, tells of each as it ends, and of all of them at the end."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import document, report
from tests.faults.lanes import Run, Turn, Way, run_lanes
from tests.faults.row import SETTLE_MOST_S, Fault
from tests.faults.rows import lasts_s

# Two cores carry so many.
LANES = 2


@dataclass
class Programme:
    """One run of a command: what it ran so far, under one seed. Its logs are kept where it failed, or on demand."""

    command: str
    seed: int = field(default_factory=lambda: secrets.randbelow(1_000_000))
    keeps_logs: bool = False
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        self._screen = report.console()
        self._began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="voltline-faults-"))

    def rows(
        self,
        faults: Sequence[Fault],
        *,
        lanes: int = LANES,
        ends_at: float | None = None,
        settle_s: float = SETTLE_MOST_S,
    ) -> None:
        """Run every row once, then again and again until `ends_at` (monotonic), if that is given."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        lanes = min(lanes, len(faults))
        self._screen.print(f"seed {self.seed}, {report.counted(len(faults), 'row')} in {report.counted(lanes, 'lane')}")
        run = run_lanes(
            Way(faults, folder, settle_s),
            _turns(faults, self.seed, ends_at),
            count=lanes,
            tell=lambda result: report.tell(self._screen, result),
        )
        self.run.results += run.results
        self.run.troubles += run.troubles
        self.run.versions = run.versions or self.run.versions

    def conclude(self, *, section: str | None, record: Path | None = None) -> int:
        """Tell of all, write docs/faults.md where it has a `section`; return 1 unless all is clean."""
        run, took_s = self.run, time.monotonic() - self._began
        report.show(self._screen, run, took_s)
        failed = bool(run.troubles) or not run.results or not all(result.is_clean for result in run.results)
        if failed:
            report.tell_how_to_repeat(self._screen, run.results, command=self.command)
        if failed or self.keeps_logs:
            report.tell_where_logs_are(self._screen, self._folder)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
        if record is not None:
            report.record(run.results, record)
        if section is not None and run.versions:
            document.write(run, what=section, command=self.command, seed=self.seed, took_s=took_s)
        return int(failed)


def _turns(faults: Sequence[Fault], seed: int, ends_at: float | None) -> Iterator[Turn]:
    """Every row once, the longest first, so that lanes end together; then again while there is time."""
    longest_first = sorted(range(len(faults)), key=lambda index: -lasts_s(faults[index]))
    for number in range(1_000_000):
        for index in longest_first:
            if number and (ends_at is None or time.monotonic() > ends_at):
                return
            yield Turn(number * len(faults) + index + 1, index, seed + number)

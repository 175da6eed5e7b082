"""What a run tells: a line per row, the table and what is wrong with it on the terminal; the document."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ops.local_stack.program import REPOSITORY
from tests.faults.lanes import Run
from tests.faults.row import Result

DOCUMENT = REPOSITORY / "docs" / "faults.md"
# Where nobody's terminal says how wide it is: CI's log.
PIPED_WIDTH = 120
PROOF_CHARS = 60
NAME_CHARS = 48

# What is counted: in the document, and on a terminal, where what has ended is what is not lost.
COUNTS = {
    "ack'd": "ack'd", "terminal": "", "lost": "lost", "twice": "twice", "delivered": "deliv.", "undel.": "undel.",
    "dup. explained": "dup.", "dup. unexpl.": "dup.!", "ghosts": "ghosts", "denied ghosts": "gh.!", "settled s": "s",
}  # fmt: skip


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def counts(result: Result) -> list[str]:
    """What the auditor counted for one row."""
    found = result.findings
    return [
        *(str(value) for value in (
            found.acknowledged, found.terminal, found.lost, found.applied_twice, found.delivered, found.undelivered,
            found.duplicates_explained, found.duplicates_unexplained, found.ghosts_unknown, found.ghosts_denied,
        )),
        f"{found.settled_s:.0f}",
    ]  # fmt: skip


def tell(screen: Console, result: Result) -> None:
    """One line about a row that has just been audited."""
    mark, told = "·", result.proof
    if not result.is_clean:
        mark, told = "✗", next(iter((*result.troubles, *result.findings.examples)), "")
    line = f"{mark} {result.number:3d} {result.name:<{NAME_CHARS}} {result.took_s:5.1f} s  {told}".splitlines()[0]
    style = None if result.is_clean else "red"
    screen.print(line, markup=False, no_wrap=True, overflow="ellipsis", style=style)


def show(screen: Console, run: Run, took_s: float) -> None:
    """Print the table and, below it, everything that is wrong."""
    results = run.results
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title="What became of every call")
    table.add_column("fault", no_wrap=True, overflow="ellipsis", max_width=NAME_CHARS)
    heads = list(COUNTS.values())
    for head in filter(None, heads):
        table.add_column(head, justify="right", no_wrap=True)
    for result in results:
        shown = [count for head, count in zip(heads, counts(result), strict=True) if head]
        table.add_row(result.name, *shown, style=None if result.is_clean else "red")
    screen.print(table)
    screen.print(
        "dup.: sent again, and the log of attempts says why; dup.!: it does not; ghosts: applied, the caller was told\n"
        "nothing for sure; gh.!: the caller was told no; s: until everything acknowledged had come to its end",
        style="dim",
    )
    failed = [result for result in results if not result.is_clean]
    for result in failed:
        screen.print(f"\n✗ {result.name}", style="red", markup=False)
        for line in (*result.troubles, *result.findings.examples):
            screen.print(f"    {line}", markup=False)
    for trouble in run.troubles:
        screen.print(f"\n✗ {trouble}", style="red", markup=False)
    screen.print(
        f"{len(results)} rows in {took_s:.0f} s, {len(failed)} failed",
        style="red" if failed or run.troubles else "green",
    )


def tell_how_to_repeat(screen: Console, results: Sequence[Result], *, command: str, logs: Path) -> None:
    """After a failure: where the logs are, and what runs each of its rows again."""
    screen.print(f"logs: {logs}", markup=False, soft_wrap=True)
    again = {(result.name, result.seed) for result in results if not result.is_clean} if command else ()
    for name, seed in sorted(again):
        screen.print(f"again: {command} ARGS='--only \"{name}\" --seed {seed}'", markup=False, soft_wrap=True)


def record(results: Sequence[Result], path: Path) -> None:
    """Write every row's counts and failures as JSON, for programs."""
    rows = [{**asdict(result), "is_clean": result.is_clean} for result in results]
    path.write_text(json.dumps(rows, indent=1))


def write(run: Run, *, command: str, seed: int, took_s: float) -> None:
    """Write docs/faults.md."""
    made_on = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    made = (
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, in {took_s:.0f} s: {made_on}, "
        f"Python {platform.python_version()}."
    )
    lines = [
        "# Faults, counted",
        "",
        made,
        "Each row is load from apps and partners through two processes of each kind, one fault, and an audit of what",
        "callers were told against database, queues and receiver. `make faults` repeats it.",
        "",
        f"| fault | {' | '.join(COUNTS)} | proof |",
        f"| --- |{' ---: |' * len(COUNTS)} --- |",
        *(f"| {result.name} | {' | '.join(counts(result))} | {result.proof[:PROOF_CHARS]} |" for result in run.results),
        "",
        "*ghosts*: applied although the caller was told nothing, or that the outcome is unknown; *denied ghosts*:",
        "applied although every call was told no. *dup. explained*: callbacks that came again and whose log shows an",
        "attempt without a known end.",
        "",
    ]
    DOCUMENT.write_text("\n".join(lines))

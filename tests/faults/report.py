"""What a run tells on the terminal: a line per row, the tables, and everything that is wrong."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.faults.lanes import Run
from tests.faults.row import Result

# Where nobody's terminal says how wide it is: CI's log.
PIPED_WIDTH = 120
NAME_CHARS = 48

# What is counted: in the document, and on a terminal, where what has ended is what is not lost.
COUNTS = {
    "ack'd": "ack'd", "terminal": "", "lost": "lost", "twice": "twice", "delivered": "deliv.", "undel.": "undel.",
    "dup. explained": "dup.", "dup. unexpl.": "dup.!", "ghosts": "ghosts", "denied ghosts": "gh.!", "settled s": "s",
}  # fmt: skip

# Of the rows in which money moves.
MONEY = ("payments", "paid", "refunded", "charged twice", "lost", "refunded twice")


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def counts(result: Result) -> list[int]:
    """What the auditor counted for one row, under the heads of COUNTS."""
    found = result.findings
    return [
        found.acknowledged, found.terminal, found.lost, found.applied_twice, found.delivered, found.undelivered,
        found.duplicates_explained, found.duplicates_unexplained, found.ghosts_unknown, found.ghosts_denied,
        round(found.settled_s),
    ]  # fmt: skip


def money(result: Result) -> list[int]:
    """What the auditor counted of payments, each a session's, under the heads of MONEY."""
    found = result.findings
    return [
        found.payments, found.paid, found.refunded, found.charged_twice, found.payments_lost, found.refunded_twice,
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
    """Print the tables and, below them, everything that is wrong."""
    results = run.results
    if results:
        _show_counts(screen, results)
    failed = [result for result in results if not result.is_clean]
    for result in failed:
        screen.print(f"\n✗ {result.name}", style="red", markup=False)
        for line in (*result.troubles, *result.findings.examples):
            screen.print(f"    {line}", markup=False)
    for trouble in run.troubles:
        screen.print(f"\n✗ {trouble}", style="red", markup=False)
    screen.print(conclusion(run, took_s), style="green" if results and not failed and not run.troubles else "red")


def _show_counts(screen: Console, results: Sequence[Result]) -> None:
    heads = list(COUNTS.values())
    shown = {result: [count for head, count in zip(heads, counts(result), strict=True) if head] for result in results}
    screen.print(_table("What became of every call", list(filter(None, heads)), shown))
    paying = {result: money(result) for result in results if result.findings.payments}
    if paying:
        screen.print(_table("What became of the money", MONEY, paying))
    screen.print(
        "dup.: sent again, and the log of attempts says why; dup.!: it does not; ghosts: applied, the caller was told\n"
        "nothing for sure; gh.!: the caller was told no; s: until everything acknowledged had come to its end",
        style="dim",
    )


def conclusion(run: Run, took_s: float) -> str:
    """The last line: what ran, and what did not."""
    broken = f"{counted(len(run.troubles), 'lane')} broke" if run.troubles else None
    if not run.results:
        return f"No row ran: {broken}" if broken else "No row ran"
    failed = sum(not result.is_clean for result in run.results)
    told = f"{counted(len(run.results), 'row')} in {took_s:.0f} s, {failed} failed"
    return f"{told}; {broken}" if broken else told


def counted(number: int, what: str) -> str:
    """A number and its noun."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(title: str, heads: Sequence[str], rows: Mapping[Result, Sequence[int]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title)
    table.add_column("fault", no_wrap=True, overflow="ellipsis", max_width=NAME_CHARS)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for result, cells in rows.items():
        table.add_row(result.name, *map(str, cells), style=None if result.is_clean else "red")
    return table


def tell_how_to_repeat(screen: Console, results: Sequence[Result], *, command: str) -> None:
    """What runs each row again that failed."""
    for name, seed in sorted({(result.name, result.seed) for result in results if not result.is_clean}):
        screen.print(f"again: {command} ARGS='--only \"{name}\" --seed {seed}'", markup=False, soft_wrap=True)


def tell_where_logs_are(screen: Console, folder: Path) -> None:
    """In a folder for each lane: what every process wrote, and the rig's own notes of when each row began."""
    screen.print(f"logs: {folder}", markup=False, soft_wrap=True)


def record(results: Sequence[Result], path: Path) -> None:
    """Write every row's counts and failures as JSON, for programs."""
    rows = [
        {
            **vars(result),
            "is_clean": result.is_clean,
            "findings": {each.name: getattr(result.findings, each.name) for each in fields(result.findings)},
        }
        for result in results
    ]
    path.write_text(json.dumps(rows, indent=1))

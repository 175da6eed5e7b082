"""The table of a run: on the terminal, and as docs/faults.md."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from ops.local_stack.program import REPOSITORY
from tests.faults.row import Result

DOCUMENT = REPOSITORY / "docs" / "faults.md"
PIPED_WIDTH = 190
PROOF_CHARS = 60

COLUMNS = (
    "fault", "ack'd", "terminal", "lost", "twice", "delivered", "undel.", "dup. explained", "dup. unexpl.",
    "ghosts", "denied ghosts", "settled s", "proof",
)  # fmt: skip


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def cells(result: Result) -> list[str]:
    """One row of the table."""
    found = result.findings
    return [
        result.fault.name,
        *(str(value) for value in (
            found.acknowledged, found.terminal, found.lost, found.applied_twice, found.delivered, found.undelivered,
            found.duplicates_explained, found.duplicates_unexplained, found.ghosts_unknown, found.ghosts_denied,
        )),
        f"{found.settled_s:.0f}",
        result.proof[:PROOF_CHARS],
    ]  # fmt: skip


def show(screen: Console, results: Sequence[Result], took_s: float) -> None:
    """Print the table and, below it, everything that is wrong."""
    table = Table(*COLUMNS, title="What became of every call")
    for result in results:
        table.add_row(*cells(result), style=None if result.is_clean else "red")
    screen.print(table)
    for result in results:
        for line in (*result.troubles, *([] if result.findings.is_clean else result.findings.examples)):
            screen.print(f"✗ {result.fault.name}: {line}", style="red", markup=False)
    failed = sum(not result.is_clean for result in results)
    screen.print(f"{len(results)} rows in {took_s:.0f} s, {failed} failed", style="red" if failed else "green")


def write(results: Sequence[Result], *, command: str, seed: int, versions: Mapping[str, str], took_s: float) -> None:
    """Write docs/faults.md."""
    made_on = ", ".join(f"{name} {version}" for name, version in versions.items())
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
        f"| {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * (len(COLUMNS) - 2)} --- |",
        *(f"| {' | '.join(cells(result))} |" for result in results),
        "",
        "*ghosts*: applied although the caller was told nothing, or that the outcome is unknown; *denied ghosts*:",
        "applied although every call was told no. *dup. explained*: callbacks that came again and whose log shows an",
        "attempt without a known end.",
        "",
    ]
    DOCUMENT.write_text("\n".join(lines))

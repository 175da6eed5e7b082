"""Mutants: the product without one of its safeguards. Each must make a row fail, or the rows prove nothing.

A mutant is a copy of the tree with one text replaced; it runs the rows that should notice.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from ops.local_stack.program import REPOSITORY
from tests.faults import report

RUN_TIMEOUT_S = 400
# Shorter than for the product: what a mutant has lost never comes.
SETTLE_S = 40
PACKAGES = ("gateway", "session_worker", "callback_worker", "shared", "ops", "tests", "docs")


@dataclass(frozen=True)
class Mutant:
    """Replaces each `old` by its `new`, each of which must occur exactly once; `rows` should notice."""

    name: str
    path: str
    changes: tuple[tuple[str, str], ...]
    rows: tuple[str, ...]


ACK_FIRST = """\
        await batch.ack()
        await asyncio.sleep(0.05)
        commands, rejects = _sort(batch.messages, self._types, self._clock())
"""
MUTANTS = (
    Mutant(
        "no inbox insert",
        "session_worker/apply.py",
        (("    await store.save_inbox(tx, state.handled, state.now)\n", ""),),
        ("between_commit_and_ack",),
    ),
    Mutant(
        "inbox not looked into",
        "session_worker/store.py",
        (
            ("    return {message_id: bytes(body_hash) for message_id, body_hash in rows}\n", "    return {}\n"),
            ("        await insert_rows(tx, inbox, rows)\n",
             '        await insert_rows(tx, inbox, rows, "ON CONFLICT DO NOTHING")\n'),
        ),
        ("between_commit_and_ack",),
    ),
    Mutant(
        "no outbox",
        "session_worker/apply.py",
        (("await store.save_outbox(tx, staged.outbox_id, orjson.dumps(staged.entries).decode(), state.now)", "pass"),),
        ("between_commit_and_ack", "between_ack_and_publish"),
    ),
    Mutant(
        "no confirm",
        "shared/broker/publisher.py",
        (("name=self._name, confirms=True)", "name=self._name, confirms=False)"),),
        ("gateway-broker half open", "broker kill"),
    ),
    Mutant(
        "ack before commit",
        "session_worker/commands.py",
        (("        commands, rejects = _sort(batch.messages, self._types, self._clock())\n", ACK_FIRST),),
        ("session_worker.before_commit",),
    ),
    Mutant(
        "no fencing",
        "callback_worker/store.py",
        ((" AND a.number = r.number AND a.outcome = 'open'\n        RETURNING a.\"callbackId\" AS id",
          " AND a.number = r.number\n        RETURNING a.\"callbackId\" AS id"),),
        ("sleeps through its leases",),
    ),
    Mutant(
        "own clocks",
        "shared/database_clock.py",
        (("return datetime.fromtimestamp(self._elapsed_s() + self._ahead_s, UTC)", "return self._own()"),),
        ("clock of one callback_worker",),
    ),
    Mutant(
        "not mandatory",
        "shared/messages.py",
        (("    mandatory: bool = True\n", "    mandatory: bool = False\n"),),
        ("queue session_worker.commands deleted",),
    ),
)  # fmt: skip


def run_mutants(only: list[str]) -> int:
    """Run each mutant's rows; return 1 when a mutant passes them all."""
    screen = report.console()
    table = Table("safeguard removed", "noticed by", "as", "s", title="Mutants", box=box.SIMPLE_HEAD)
    survivors = 0
    for mutant in MUTANTS:
        if only and not any(word in mutant.name for word in only):
            continue
        began = time.monotonic()
        noticed, output = _run(mutant)
        row, how = noticed[0] if noticed else ("nobody", output[-2000:])
        survivors += not noticed
        took = f"{time.monotonic() - began:.0f}"
        table.add_row(mutant.name, row, how.splitlines()[0][:60], took, style=None if noticed else "red")
        screen.print(f"{'·' if noticed else '✗'} {mutant.name}: {row}: {how}", markup=False)
    screen.print(table)
    return int(survivors > 0)


def _run(mutant: Mutant) -> tuple[list[tuple[str, str]], str]:
    """Return the rows whose counts were wrong, each with an example, and all that was printed."""
    folder = Path(tempfile.mkdtemp(prefix="voltline-mutant-"))
    try:
        for package in PACKAGES:
            shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        _mutate(folder / mutant.path, mutant)
        rows = [word for row in mutant.rows for word in ("--only", row)]
        options = ["--lanes", "1", "--no-write", "--settle", str(SETTLE_S), "--record", "rows.json"]
        ran = subprocess.run(
            [sys.executable, "-m", "tests.faults", "short", *options, *rows],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_TIMEOUT_S, check=False,
        )  # fmt: skip
        if not (folder / "rows.json").exists():
            return [], ran.stdout
        results = json.loads((folder / "rows.json").read_text())
        # A row that broke, or whose fault never fired, has noticed nothing: the counts must say it.
        found = [(row["name"], row["findings"]["examples"]) for row in results]
        return [(name, examples[0]) for name, examples in found if examples], ran.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mutate(path: Path, mutant: Mutant) -> None:
    text = path.read_text()
    for old, new in mutant.changes:
        if text.count(old) != 1:
            raise SystemExit(
                f"mutant '{mutant.name}' no longer applies: {path.name} holds {text.count(old)} times {old!r}"
            )
        text = text.replace(old, new)
    path.write_text(text)

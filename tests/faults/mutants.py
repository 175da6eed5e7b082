"""Mutants: the product without one of its safeguards. Each must make a row fail, or the rows prove nothing.

A mutant is a copy of the tree with some text replaced. It runs rows that cannot but meet what was removed, and one of
the auditor's counts must say so. A row that breaks, or whose workers do, has noticed nothing. The same rows run without
a change beside them, and must pass.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ops.local_stack.program import REPOSITORY
from tests.faults import document, report
from tests.faults.findings import Findings
from tests.faults.rows import chosen

# The unchanged product runs all the rows, one after the other, on a machine that does more than that.
RUN_TIMEOUT_S = 900
AT_A_TIME = 2
# Shorter than for the product: what a mutant has lost never comes.
SETTLE_S = 40
PACKAGES = ("gateway", "session_worker", "callback_worker", "shared", "ops", "tests", "docs")
TOLD_CHARS = 3000


@dataclass(frozen=True)
class Mutant:
    """Replaces each `old` by its `new`, each of which must occur exactly once.

    `rows` are words of rows' names; in one of these rows the count `shows` what is missing.
    """

    name: str
    path: str
    changes: tuple[tuple[str, str], ...]
    rows: tuple[str, ...]
    shows: str


@dataclass(frozen=True)
class Ran:
    """What came of a run: the findings of each row that ran as it should, whether all was well, what was printed."""

    findings: dict[str, Findings]
    is_clean: bool
    told: str


# The broker answers in the order in which it is asked: after the second answer the messages are gone.
ACK_FIRST = """\
        await batch.ack()
        await apart(batch.channel.flow(active=True), timeout_s=10)
        commands, rejects = _sort(batch.messages, self._types, self._clock())
"""
# The provider cannot know that it was asked before.
ANOTHER_KEY = "replace(step.order, key=str(uuid4()), reference=uuid4())"
MUTANTS = (
    Mutant(
        "no inbox insert",
        "session_worker/apply.py",
        (("    await store.save_inbox(tx, state.handled, state.now)\n", ""),),
        rows=("session_worker.between_commit_and_ack",),
        shows="applied_twice",
    ),
    Mutant(
        "inbox not looked into",
        "session_worker/store.py",
        (
            ("    return {message_id: bytes(body_hash) for message_id, body_hash in rows}\n", "    return {}\n"),
            ("        await insert_rows(tx, inbox, rows)\n",
             '        await insert_rows(tx, inbox, rows, "ON CONFLICT DO NOTHING")\n'),
        ),
        # A crash brings a message again, perhaps a meter value, which does no harm twice; this brings all in flight.
        rows=("session worker-broker loses what is sent",),
        shows="applied_twice",
    ),
    Mutant(
        "no outbox",
        "session_worker/apply.py",
        (("await store.save_outbox(tx, staged.outbox_id, orjson.dumps(staged.entries).decode(), state.now)", "pass"),),
        rows=("session_worker.between_ack_and_publish",),
        shows="undelivered",
    ),
    Mutant(
        "no confirm",
        "shared/broker/publisher.py",
        (("name=self._name, confirms=True)", "name=self._name, confirms=False)"),),
        rows=("gateway-broker half open",),
        shows="lost",
    ),
    Mutant(
        "ack before commit",
        "session_worker/commands.py",
        (
            ("        commands, rejects = _sort(batch.messages, self._types, self._clock())\n", ACK_FIRST),
            # Twice would be an error that closes the channel.
            ("        if settled:\n            await batch.ack()\n", "        if settled:\n            pass\n"),
            ("from shared.broker.connection import backoff_s", "from shared.broker.connection import apart, backoff_s"),
        ),
        rows=("session_worker.before_commit",),
        shows="lost",
    ),
    Mutant(
        "no fencing",
        "callback_worker/store.py",
        ((" AND a.number = r.number AND a.outcome = 'open'\n        RETURNING a.\"callbackId\" AS id",
          " AND a.number = r.number\n        RETURNING a.\"callbackId\" AS id"),),
        rows=("sleeps through its leases",),
        shows="duplicates_unexplained",
    ),
    Mutant(
        "own clocks",
        "shared/database_clock.py",
        (("return datetime.fromtimestamp(self._elapsed_s() + self._ahead_s, UTC)", "return self._own()"),),
        rows=("clock of one callback_worker",),
        shows="duplicates_unexplained",
    ),
    Mutant(
        "not mandatory",
        "shared/messages.py",
        (("    mandatory: bool = True\n", "    mandatory: bool = False\n"),),
        rows=("queue session_worker.commands deleted",),
        shows="lost",
    ),
    Mutant(
        "payments: another key for each call",
        "session_worker/payments/ask.py",
        (
            ("provider.refund(step.order)", f"provider.refund({ANOTHER_KEY})"),
            ("from datetime import datetime\n", "from dataclasses import replace\nfrom datetime import datetime\n"),
            ("from typing import Final", "from uuid import uuid4\nfrom typing import Final"),
        ),
        rows=("payment: killed between call and commit",),
        shows="refunded_twice",
    ),
    Mutant(
        "payments: what was paid is not read again",
        "session_worker/payments/decide.py",
        (("payment=look_again(facts.payment, facts.notice, facts.now)", "payment=facts.payment"),),
        rows=("payment: workers killed at random moments",),
        shows="payments_lost",
    ),
)  # fmt: skip


def run_mutants(only: Sequence[str], *, writes: bool) -> int:
    """Run each mutant's rows, two mutants at a time; return 1 when one shows in no count, or the product fails."""
    screen = report.console()
    mutants = [mutant for mutant in MUTANTS if not only or any(word in mutant.name for word in only)]
    for mutant in mutants:
        mutated(mutant)  # before anything runs: none of them may be out of date
    began = time.monotonic()
    table = Table("safeguard removed", "fault", "counts", title="Mutants", box=box.SIMPLE_HEAD)
    rows: list[tuple[str, str, str]] = []
    failed = 0
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        unchanged = threads.submit(_run, None, rows_of(mutants))
        for mutant, ran in zip(mutants, threads.map(lambda each: _run(each, rows_of([each])), mutants), strict=True):
            cells = noticed(mutant, ran.findings)
            failed += cells is None
            rows.append((mutant.name, *(cells or ("none", "all 0", ""))[:2]))
            table.add_row(*rows[-1], style=None if cells else "red")
            told = ": ".join(cells) if cells else f"not noticed by {mutant.shows}\n{ran.told[-TOLD_CHARS:]}"
            screen.print(f"{'·' if cells else '✗'} {mutant.name}: {told}", markup=False)
        control = unchanged.result()
    rows.append(("none", f"all {len(control.findings)} of them", "all 0" if control.is_clean else "not all 0"))
    table.add_row(*rows[-1])
    screen.print(table)
    if not control.is_clean:
        screen.print(f"✗ the product as it is fails:\n{control.told[-TOLD_CHARS:]}", markup=False)
    screen.print(f"{len(mutants)} mutants in {time.monotonic() - began:.0f} s, {failed} not noticed")
    if writes:
        document.write_mutants(rows, time.monotonic() - began)
    return int(failed > 0 or not control.is_clean or not mutants)


def whole(results: Iterable[Mapping[str, Any]]) -> dict[str, Findings]:
    """Return the findings of rows that ran as they should: without its fault, or its workers, a row proves nothing."""
    return {row["name"]: Findings(**row["findings"]) for row in results if not row["troubles"]}


def noticed(mutant: Mutant, findings: dict[str, Findings]) -> tuple[str, str, str] | None:
    """Return the row whose count shows what is missing, its wrong counts, and an example; None where no row does."""
    for row, found in findings.items():
        if found.wrong.get(mutant.shows):
            counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found.wrong.items())
            return row, counts, next(iter(found.examples), "")
    return None


def rows_of(mutants: Iterable[Mutant]) -> list[str]:
    """Return the names of their rows, each once; a word that names none is out of date."""
    names = []
    for mutant in mutants:
        for word in mutant.rows:
            rows = chosen([word], is_long=False)
            if not rows:
                raise SystemExit(f"mutant '{mutant.name}' is out of date: no row's name holds {word!r}")
            names += [row.name for row in rows]
    return list(dict.fromkeys(names))


def mutated(mutant: Mutant) -> str:
    """Return the text of its file without the safeguard."""
    text = (REPOSITORY / mutant.path).read_text()
    for old, new in mutant.changes:
        if (times := text.count(old)) != 1:
            raise SystemExit(
                f"mutant '{mutant.name}' is out of date: {mutant.path} holds {times} times, not once, {old!r}"
            )
        text = text.replace(old, new)
    compile(text, mutant.path, "exec")
    return text


def _run(mutant: Mutant | None, rows: Sequence[str]) -> Ran:
    """Run the rows in a copy of the tree."""
    folder = Path(tempfile.mkdtemp(prefix="voltline-mutant-"))
    try:
        for package in PACKAGES:
            shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            (folder / mutant.path).write_text(mutated(mutant))
        options = ["--lanes", "1", "--no-write", "--settle", str(SETTLE_S), "--record", "rows.json"]
        words = [word for row in rows for word in ("--only", row)]
        ran = subprocess.run(
            [sys.executable, "-m", "tests.faults", "short", *options, *words],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_TIMEOUT_S, check=False,
        )  # fmt: skip
        recorded = folder / "rows.json"
        results = json.loads(recorded.read_text()) if recorded.exists() else []
        return Ran(whole(results), ran.returncode == 0, ran.stdout)
    except subprocess.TimeoutExpired:
        return Ran({}, False, f"it did not end within {RUN_TIMEOUT_S} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

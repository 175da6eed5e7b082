"""docs/faults.md: what became of every call, a section for each generation of the broker, replaced by its next run."""

import platform
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ops.local_stack.program import REPOSITORY
from tests.faults.lanes import Run
from tests.faults.report import COUNTS, MONEY, counts, money
from tests.faults.row import Result

DOCUMENT = REPOSITORY / "docs" / "faults.md"
PROOF_CHARS = 90
SECTION = "## "
# Columns of words, not figures.
WORDS = {"fault", "proof", "safeguard removed", "counts"}

HEAD = """\
# Faults, counted

Each row is load from apps and partners through two processes of each kind, one fault, and an audit of what callers
were told against database, queues and receiver. `make faults` repeats it on the machine's own servers, and
`LOCAL_STACK=docker make faults` on Docker's; each run replaces its section. [testing.md](testing.md) has all commands.

**lost**, **twice**, **undel.**, **dup. unexpl.** and **denied ghosts** must be 0, and the last three of money. The
others tell how much there was to look at, and what the fault did.

| Count | Meaning |
| --- | --- |
| runs | how often the row was run; counts are sums |
| ack'd | commands whose caller was told that they are taken: by a gateway's answer, or by the broker's confirm |
| terminal | of these, the ones that have their one outcome: applied, or refused with a reason |
| **lost** | acknowledged, and without it |
| **twice** | applied or told twice |
| delivered | events that reached their callback URL; fewer than ack'd, since a meter value has no event of its own |
| **undel.** | events that never came, and no visible reason why |
| dup. explained | callbacks that came again, and whose log shows an attempt without a known end |
| **dup. unexpl.** | callbacks that came again, and whose log does not say why |
| ghosts | applied although the caller was told nothing, or that the outcome is unknown |
| **denied ghosts** | applied although every call was told no |
| settled s | from the end of the load until everything acknowledged had ended |

Ghosts of an unknown answer are allowed: such a caller repeats with the same key, and the command is applied once. One
caller in four never repeats here, so that they show.

*proof* says that the fault came about. *exit -9*: the process was killed, and *there*, at that place in the code.
*unready 0.5 s, ready 0.3 s after*: so long until the slowest process of this kind said so in `/readyz`, and after the
mending until it took that back. *pieces or connections met it*: so much of what was on its way over that link was held,
delayed, lost or cut.

*queue … deleted*: while it is empty, for what is in a queue when somebody deletes it is gone. What partners publish
until it is made again waits in `unrouted` until somebody [publishes it again](dead-letters.md); here the rig did
(*redriven*). *… that kills its …*: the delivery limit is lower there than the 100 that are provisioned.
"""


def write(run: Run, *, what: str, command: str, seed: int, took_s: float) -> None:
    """Replace, or add, the section of `what` on this broker's generation."""
    generation = str(run.versions["RabbitMQ"]).partition(".")[0]
    _put(f"{what} RabbitMQ {generation}", _section(run, command=command, seed=seed, took_s=took_s))


def write_mutants(rows: Sequence[Sequence[str]], took_s: float) -> None:
    """Replace, or add, the section that tells which row missed which safeguard, and by what it counted."""
    made = (
        f"Written by `make faults-mutants` on {datetime.now(UTC):%Y-%m-%d}, in {took_s:.0f} s. Each run is the product "
        "without one of its safeguards, and one row that must show it; the last is the product as it is, in all rows."
    )
    heads = ("safeguard removed", "fault", "counts")
    _put("Safeguards removed, one at a time", "\n".join([textwrap.fill(made, 120), "", *_table(heads, rows)]))


def _put(title: str, content: str) -> None:
    old = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    DOCUMENT.write_text(replaced(old, title, content))


def replaced(old: str, title: str, content: str) -> str:
    """The document with this section in place of the one of the same title; the sections in order of their titles."""
    sections = {}
    for part in f"\n{old}".split(f"\n{SECTION}")[1:]:
        name, _, body = part.partition("\n")
        sections[name] = body.strip("\n")
    sections[title] = content
    bodies = (f"{SECTION}{name}\n\n{body}\n" for name, body in sorted(sections.items()))
    return "\n".join([HEAD, *bodies])


def _section(run: Run, *, command: str, seed: int, took_s: float) -> str:
    made_on = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    made = (
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, in {took_s:.0f} s: {made_on}, "
        f"Python {platform.python_version()}."
    )
    runs = list(_by_name(run.results).items())
    rows = [
        [name, str(len(results)), *_sums([counts(each) for each in results]), _shortened(results[-1].proof)]
        for name, results in runs
    ]
    paying = [
        [name, *_sums([money(each) for each in results])] for name, results in runs if results[-1].findings.payments
    ]
    lines = [made, "", *_table(["fault", "runs", *COUNTS, "proof"], rows)]
    if paying:
        lines += ["", "The money of these, each payment a session's:", "", *_table(["fault", *MONEY], paying)]
    return "\n".join(lines)


def _by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
    named: dict[str, list[Result]] = {}
    for result in results:
        named.setdefault(result.name, []).append(result)
    return named


def _shortened(proof: str) -> str:
    return proof if len(proof) <= PROOF_CHARS else f"{proof[:PROOF_CHARS].rpartition(' ')[0].rstrip(',;')} …"


def _sums(runs: Sequence[Sequence[int]]) -> list[str]:
    """What all runs of one row counted together; of the time to settle, the longest."""
    sums = [sum(column) for column in zip(*runs, strict=True)]
    if len(runs[0]) == len(COUNTS):
        sums[-1] = max(run[-1] for run in runs)
    return [str(value) for value in sums]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' if head in WORDS else '---:' for head in heads)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"

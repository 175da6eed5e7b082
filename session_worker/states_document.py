"""`python -m session_worker.states_document`: prints `docs/session-states.md`, which a test compares with the rules.

Everything in its tables comes from executing the rules and from the enums of reasons.
"""

import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum

from session_worker.reasons import REASON_SENTENCES, REVIEW_SENTENCES
from session_worker.session import Reason, Review
from session_worker.situations import NO_SESSION, UNCHANGED, Transition, transitions
from shared.resources import Phase, Status

RENEW = "python -m session_worker.states_document > docs/session-states.md"

_IN_PROGRESS = ", ".join(phase for phase in Phase if phase.status is Status.IN_PROGRESS)
_INTRODUCTION = f"""\
# The states of a session

Made from the code; do not edit. Renew it with `{RENEW}`.

A session's `phase` gives its public `status`: {_IN_PROGRESS} are IN_PROGRESS.
STARTING and STOPPING are for charger adapters; without one every session begins as ACTIVE. A request is decided once;
allowed, it is itself the start.
"""
_TABLE = """\
## Every command in every state

Each row was executed. "–" is an id that nothing is known of; no guard means whatever the circumstances; the guards of a
row each lead to the same end. What is refused is told by an event; of a start on a busy charger a CANCELLED row stays.
The duplicate of a command changes nothing; its id with another body is refused with IDEMPOTENCY_CONFLICT.
"""
_REASONS = """\
## Reasons

Stable codes: of refusals (`session.command_rejected`), of requests that were not allowed (`request.decided`), and of
sessions that ended in another way than by words.
"""
_REVIEWS = """\
## Reviews

A session that is not plausible has `needsReview` and one of these reasons, and no price but one that somebody names.
"""


def document() -> str:
    """Return the whole document."""
    table = transitions()
    parts = [
        _INTRODUCTION, _diagram(table), _TABLE, _rows(table), _REASONS, _sentences(Reason, REASON_SENTENCES),
        _REVIEWS, _sentences(Review, REVIEW_SENTENCES),
    ]  # fmt: skip
    return "\n".join(parts)


def _rows(table: Iterable[Transition]) -> str:
    lines = ["| From | Command | Guard | To | Events | Outcome, reason |", "| --- | --- | --- | --- | --- | --- |"]
    for row in table:
        cells = (
            ", ".join(row.froms), row.command, "; ".join(row.guards), row.result.to,
            ", ".join(row.result.events) or "none", row.result.outcome,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _diagram(table: Iterable[Transition]) -> str:
    """Draw what changes the state, as far as a session can come from nothing."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in table:
        for begin in row.froms if row.result.to != UNCHANGED else ():
            commands = labels.setdefault((begin, row.result.to), [])
            if row.command not in commands:
                commands.append(row.command)
    reached = _reached(labels)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{name}" as {_node(name)}' for name in sorted(reached) if _node(name) != name]
    for (begin, end), commands in labels.items():
        if begin == NO_SESSION or begin in reached:
            lines.append(f"    {_node(begin)} --> {_node(end)}: {', '.join(commands)}")
    ends = reached - {begin for begin, _ in labels}
    lines += [f"    {_node(name)} --> [*]" for name in sorted(ends)]
    return "\n".join([*lines, "```", ""])


def _reached(edges: Iterable[tuple[str, str]]) -> set[str]:
    edges, reached = list(edges), set[str]()
    while more := {end for begin, end in edges if begin == NO_SESSION or begin in reached} - reached:
        reached |= more
    return reached


def _node(name: str) -> str:
    return "[*]" if name == NO_SESSION else name.replace(" ", "_")


def _sentences(codes: type[StrEnum], sentences: Mapping[Reason, str] | Mapping[Review, str]) -> str:
    known = {str(code): sentence for code, sentence in sentences.items()}
    lines = [f"| `{code}` | {known[code]} |" for code in codes]
    return "\n".join(["| Code | Meaning |", "| --- | --- |", *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(document())

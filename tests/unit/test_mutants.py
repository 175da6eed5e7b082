"""The mutants follow the code that they break, which is noticed here at once; `make faults-mutants` takes minutes."""

from dataclasses import asdict, replace

import pytest

from ops.local_stack.program import REPOSITORY
from tests.faults.findings import WRONG, Findings
from tests.faults.mutants import MUTANTS, Mutant, mutated, noticed, rows_of, whole

MUTANT = MUTANTS[0]
ROWS = {"whole": [], "never fired": ["never fired: exit 0"], "idle": ["ready, but handles nothing: session_worker"]}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_the_code_as_it_is_and_names_rows_and_a_count(mutant: Mutant) -> None:
    assert mutated(mutant) != (REPOSITORY / mutant.path).read_text()
    assert rows_of([mutant])
    assert mutant.shows in WRONG


def test_a_mutant_whose_text_is_gone_ends_the_run_and_is_named() -> None:
    with pytest.raises(SystemExit, match=r"'no inbox insert' is out of date: session_worker/apply.py holds 0 times"):
        mutated(replace(MUTANT, changes=(("no such text", ""),)))


def test_a_mutant_whose_row_is_gone_ends_the_run_and_is_named() -> None:
    with pytest.raises(SystemExit, match="'no inbox insert' is out of date: no row's name holds 'no such row'"):
        rows_of([replace(MUTANT, rows=("no such row",))])


@pytest.mark.parametrize("found", [Findings(), Findings(lost=3, examples=["lost: a"])])
def test_a_row_that_fails_for_another_reason_has_noticed_nothing(found: Findings) -> None:
    assert noticed(replace(MUTANT, shows="applied_twice"), {"row": found}) is None


def test_who_noticed_is_told_with_all_counts_that_are_wrong() -> None:
    found = Findings(lost=3, applied_twice=1, examples=["lost: a"])
    assert noticed(replace(MUTANT, shows="lost"), {"other": Findings(), "row": found}) == (
        "row",
        "lost 3, applied twice 1",
        "lost: a",
    )


def test_a_row_whose_fault_never_fired_or_whose_workers_do_nothing_has_noticed_nothing() -> None:
    found = Findings(lost=3, examples=["lost: a"])
    rows = [{"name": name, "troubles": troubles, "findings": asdict(found)} for name, troubles in ROWS.items()]
    assert whole(rows) == {"whole": found}

"""What the fault suite's command says where there is little to say: no such row, one row, no lane."""

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.faults.__main__ import app
from tests.faults.findings import Findings
from tests.faults.lanes import Run
from tests.faults.report import conclusion, show
from tests.faults.row import Result


@pytest.mark.parametrize("command", ["short", "long"])
def test_a_word_that_no_row_holds_is_a_slip_of_the_command_line(command: str) -> None:
    """Nothing is started for it."""
    ran = CliRunner().invoke(app, [command, "--only", "nosuch", "--only", "none"])
    assert ran.exit_code == 2
    assert ran.output == "No row's name holds 'nosuch' or 'none'; `python -m tests.faults rows` names them\n"


def test_the_last_line_tells_what_ran_and_what_did_not() -> None:
    """A run without a row is no clean run, whatever the number of those that failed."""
    clean = Result(1, "a row", 7, findings=Findings(acknowledged=1, owed=1, delivered=1))
    failed = Result(2, "another", 7, troubles=["never ready"])
    assert conclusion(Run([clean]), 3) == "1 row in 3 s, 0 failed"
    assert conclusion(Run([clean, failed], troubles=["lane-2: no room"]), 3) == "2 rows in 3 s, 1 failed; 1 lane broke"
    assert conclusion(Run(troubles=["lane-1: no room", "lane-2: no room"]), 3) == "No row ran: 2 lanes broke"


def test_a_run_without_a_row_has_no_table() -> None:
    screen = Console(width=120)
    with screen.capture() as told:
        show(screen, Run(troubles=["lane-1: no room"]), 3)
    assert "What became" not in told.get()
    assert told.get().splitlines()[-1] == "No row ran: 1 lane broke"

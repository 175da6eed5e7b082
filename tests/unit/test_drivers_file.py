"""The CSV of drivers: what a row means, and every way in which a file can be wrong."""

import io
from datetime import UTC, datetime

import pytest

from ops.drivers_file import ENCODING, ENCODING_ERRORS, Fault, read_drivers
from shared.commands import DriverStatus, SetDriver

HEADER = "driverId,status,validFrom,validUntil,stations,reason\n"


def read(content: str | bytes) -> tuple[list[SetDriver], list[str]]:
    """The drivers and the faults of a file with this content."""
    encoded = content if isinstance(content, bytes) else content.encode()
    lines = io.TextIOWrapper(io.BytesIO(encoded), encoding=ENCODING, errors=ENCODING_ERRORS, newline="")
    found = list(read_drivers(lines))
    return [each for each in found if isinstance(each, SetDriver)], [
        str(each) for each in found if isinstance(each, Fault)
    ]


def test_a_row_is_a_driver() -> None:
    row = "anna,ALLOWED,2026-01-01T00:00:00Z,2027-01-01T00:00:00+01:00,depot;harbour,staff\n"
    drivers, faults = read(HEADER + row)
    assert not faults
    assert drivers == [
        SetDriver(
            driver_id="anna",
            status=DriverStatus.ALLOWED,
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            valid_until=datetime(2026, 12, 31, 23, tzinfo=UTC),
            stations=["depot", "harbour"],
            reason="staff",
        )
    ]


def test_an_empty_cell_is_null() -> None:
    drivers, _ = read(HEADER + "anna,BLOCKED,,,,\n")
    assert drivers == [SetDriver(driver_id="anna", status=DriverStatus.BLOCKED)]


def test_a_byte_order_mark_crlf_blank_lines_quotes_and_another_order_of_columns_are_no_faults() -> None:
    """What spreadsheets write."""
    content = 'reason,stations,validUntil,validFrom,status,driverId\r\n\r\n"moved, paid",,,,ALLOWED,"a ""b"""\r\n\r\n'
    drivers, faults = read("\ufeff" + content)
    assert not faults
    assert drivers == [SetDriver(driver_id='a "b"', status=DriverStatus.ALLOWED, reason="moved, paid")]


def test_a_file_without_rows_has_no_drivers_and_no_faults() -> None:
    assert read(HEADER) == ([], [])


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ("", ["line 1: the file is empty; its first line must name the columns"]),
        ("driverId,status\n", [f"line 1, {name}: this column is missing" for name in HEADER.strip().split(",")[2:]]),
        (HEADER.strip() + ",color,\n", ["line 1, color: no such column", "line 1, (no name): no such column"]),
        (HEADER.strip() + ",status\n", ["line 1, status: this column is there twice"]),
        (HEADER.replace(",", ";") + "anna;ALLOWED;;;;\n", ["line 1: the columns must be separated by commas"]),
        (HEADER.encode("utf-16"), ["line 1: the file is not UTF-8"]),
    ],
    ids=["empty", "missing columns", "unknown columns", "a column twice", "semicolons", "UTF-16"],
)
def test_a_header_that_is_not_understood_is_the_only_thing_told(content: str | bytes, faults: list[str]) -> None:
    assert read(content) == ([], faults)


def test_every_fault_of_every_row_is_told_with_line_and_column() -> None:
    """Lines are counted as an editor does, also behind a cell of two lines."""
    rows = [
        ",ALLOWED,,,,",
        "b,OPEN,yesterday,,,",
        "c,ALLOWED,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z,,",
        'd,ALLOWED,,,,"two\nlines"',
        "e,ALLOWED,,,depot;;harbour,",
        "f,ALLOWED,,,",
        "g,,,,,",
        " h,ALLOWED,,,,",
        "i,ALLOWED,,,,",
        "i,BLOCKED,,,,",
        "b,BLOCKED,,,,",
    ]
    drivers, faults = read(HEADER + "\n".join(rows) + "\n")
    assert [driver.driver_id for driver in drivers] == ["i"]
    assert faults == [
        "line 2, driverId: is empty",
        "line 3, status: Input should be 'ALLOWED', 'BLOCKED', 'EXPIRED' or 'NO_CREDIT'",
        "line 3, validFrom: must be a time as in 2026-05-04T12:00:00Z",
        "line 4: validFrom must come before validUntil",
        "line 5, reason: must not contain control characters",
        "line 7, stations: station 2: String should have at least 1 character",
        "line 8: has 5 columns, not 6",
        "line 9, status: is empty",
        "line 10, driverId: must not begin or end with white space",
        "line 12, driverId: is the same as on line 11",
        "line 13, driverId: is the same as on line 3",
    ]


def test_a_byte_that_is_no_utf_8_is_told_where_it_is() -> None:
    content = HEADER.encode() + b"a,ALLOWED,,,,caf\xe9\nb,ALLOWED,,,,\n"
    drivers, faults = read(content)
    assert faults == ["line 2, reason: is not UTF-8"]
    assert [driver.driver_id for driver in drivers] == ["b"]


def test_a_quote_that_never_ends_is_told() -> None:
    _, faults = read(HEADER + 'a,ALLOWED,,,,"oh\nb,ALLOWED,,,,\n')
    assert faults == ["line 2: is no CSV: unexpected end of data"]


def test_a_cell_without_end_is_told_and_the_rest_is_read() -> None:
    _, faults = read(HEADER + f"a,ALLOWED,,,,{'x' * 200_000}\nb,WRONG,,,,\n")
    assert faults[0].startswith("line 2: is no CSV: field larger than field limit")
    assert faults[-1].startswith("line 3, status")

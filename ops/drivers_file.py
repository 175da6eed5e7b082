"""The CSV file of drivers, pure: each row becomes a `SetDriver` command, or the faults that it has.

The columns are those of `PUT /api/v1/drivers/{driverId}`, in any order. An empty cell is null; `stations` are separated
by semicolons. Rows are read one at a time; of a long file only the driver ids are kept, to tell duplicates.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from shared.commands import SetDriver, schema_faults

COLUMNS: Final = ("driverId", "status", "validFrom", "validUntil", "stations", "reason")
# `utf-8-sig` takes a byte order mark away; a byte that is no UTF-8 is kept as a surrogate, to be told with its line.
ENCODING: Final = "utf-8-sig"
ENCODING_ERRORS: Final = "surrogateescape"
_FIRST_SURROGATE: Final = "\udc80"
_LAST_SURROGATE: Final = "\udcff"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong and where; `column` is empty where it is the whole line."""

    line: int
    column: str
    sentence: str

    def __str__(self) -> str:
        place = f"line {self.line}, {self.column}" if self.column else f"line {self.line}"
        return f"{place}: {self.sentence}"


Row = tuple[int, list[str]]


def read_drivers(lines: Iterable[str]) -> Iterator[SetDriver | Fault]:
    """Yield every driver and every fault of the file; lines keep their ends, as of a file opened with `newline=""`."""
    rows = _rows(lines)
    header = next(rows, None)
    if header is None:
        yield Fault(1, "", "the file is empty; its first line must name the columns")
        return
    faults = [header] if isinstance(header, Fault) else _header_faults(header)
    yield from faults
    if not faults and not isinstance(header, Fault):
        yield from _drivers(header[1], rows)


def _rows(lines: Iterable[str]) -> Iterator[Row | Fault]:
    """Yield each record with the line on which it begins; blank lines are skipped."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(line, "", f"is no CSV: {error}")
            continue
        if cells:
            yield line, cells


def _header_faults(header: Row) -> list[Fault]:
    line, names = header
    if _is_no_text("".join(names)):
        return [Fault(line, "", "the file is not UTF-8")]
    if len(names) == 1 and COLUMNS[0] in names[0]:
        return [Fault(line, "", "the columns must be separated by commas")]
    missing = [Fault(line, name, "this column is missing") for name in COLUMNS if name not in names]
    unknown = [Fault(line, name or "(no name)", "no such column") for name in names if name not in COLUMNS]
    twice = [Fault(line, name, "this column is there twice") for name in COLUMNS if names.count(name) > 1]
    return missing + unknown + twice


def _drivers(columns: list[str], rows: Iterable[Row | Fault]) -> Iterator[SetDriver | Fault]:
    line_of: dict[str, int] = {}
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        line, cells = row
        if len(cells) != len(columns):
            yield Fault(line, "", f"has {len(cells)} columns, not {len(columns)}")
            continue
        named = dict(zip(columns, cells, strict=True))
        first = line_of.setdefault(named["driverId"], line)
        if first != line and named["driverId"]:
            yield Fault(line, "driverId", f"is the same as on line {first}")
            continue
        yield from _driver(line, named)


def _driver(line: int, named: Mapping[str, str]) -> list[SetDriver] | list[Fault]:
    """Return the one driver, or the faults."""
    if unreadable := [Fault(line, name, "is not UTF-8") for name, cell in named.items() if _is_no_text(cell)]:
        return unreadable
    try:
        return [SetDriver.model_validate(_fields(named))]
    except ValidationError as error:
        return [_fault(line, named, fault) for fault in schema_faults(error)]


def _fields(named: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: cell for name, cell in named.items() if cell}
    if "stations" in fields:
        fields["stations"] = fields["stations"].split(";")
    return fields


def _fault(line: int, named: Mapping[str, str], fault: Mapping[str, str]) -> Fault:
    """A fault of one station is the column's; a cell that is empty is said to be so."""
    _, _, pointer = fault["pointer"].partition("/")
    column, _, index = pointer.partition("/")
    if column and not named[column]:
        return Fault(line, column, "is empty")
    return Fault(line, column, f"station {int(index) + 1}: {fault['detail']}" if index else fault["detail"])


def _is_no_text(value: str) -> bool:
    return (not value.isascii() and any(_FIRST_SURROGATE <= char <= _LAST_SURROGATE for char in value)) or "\0" in value

"""A log as a table for people: ids stay whole, long texts are folded, and a narrow terminal leaves columns out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Between two columns.
GAP: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: the room that it needs at least, and how long it stays where room is short; the least rank stays."""

    name: str
    rank: int
    least: int
    folds: bool = False
    justify: Literal["left", "right"] = "left"


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return those that there is room for, in their order."""
    chosen = list[Column]()
    for column in sorted(columns, key=lambda each: each.rank):
        if sum(each.least + GAP for each in (*chosen, column)) - GAP <= width:
            chosen.append(column)
    return [column for column in columns if column in chosen]


def listing(columns: Sequence[Column], rows: Iterable[Mapping[str, Text]], *, what: str, width: int) -> Table:
    """Return rows, each a text for each column's name, as a table of that width, with their count below."""
    shown = Table(box=None, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False)
    chosen = fitting(columns, width)
    for column in chosen:
        shown.add_column(column.name, no_wrap=not column.folds, overflow="fold", justify=column.justify)
    for row in rows:
        shown.add_row(*(row[column.name] for column in chosen))
    shown.caption = f"{shown.row_count:,} {what}{'' if shown.row_count == 1 else 's'}"
    return shown


def console(piped_width: int) -> Console:
    """Return the console; piped output has no width of its own."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=piped_width)

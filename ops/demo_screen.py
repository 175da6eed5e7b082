"""How the demo looks: each exchange as it happens, rows as they are in the database, the closing table."""

import json
from typing import Any

import httpx
from rich.console import Console
from rich.json import JSON
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ops.receiver import Callback

# Piped output has no width of its own; this one fits a mail and a CI log.
PIPED_WIDTH = 100
INDENT = 5


def new_console() -> Console:
    """The terminal, or plain text of a fixed width where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def show_title(console: Console, number: int, title: str) -> None:
    """Opens one part of the story."""
    console.print()
    console.rule(f"[bold]{number}  {title}[/]", align="left", style="dim")


def show_request(console: Console, method: str, path: str, body: dict[str, Any]) -> None:
    """What is sent."""
    console.print(f" [bold cyan]→[/]  [bold]{method}[/] {path}")
    _show_json(console, body)


def show_answer(console: Console, answer: httpx.Response, elapsed_ms: float) -> None:
    """What comes back at once."""
    console.print(f" [bold green]←[/]  [bold]{answer.status_code}[/] [dim]in {elapsed_ms:.1f} ms[/]")
    _show_json(console, answer.json())


def show_callback(console: Console, callback: Callback, elapsed_ms: float) -> None:
    """What reaches the callback URL, but for its nulls."""
    verdict = "[green]✓ signature verified by standardwebhooks[/]"
    console.print(
        f" [bold magenta]⇠[/]  callback [bold]{callback.type}[/] [dim]after {elapsed_ms:.0f} ms[/]  {verdict}"
    )
    _show_json(console, _without_nulls(callback.json))


def show_row(console: Console, table_name: str, row: dict[str, object]) -> None:
    """A row as SQL gives it; columns that hold nothing are left out."""
    console.print(f" [bold yellow]▤[/]  {table_name} [dim](SQL)[/]")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in row.items():
        if value is not None:
            table.add_row(f"[dim]{name}[/]", str(value))
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))


def new_progress(console: Console) -> Progress:
    """Bars for the load; where there is no terminal they are shown once, at their end."""
    return Progress(
        TextColumn("    {task.description:<13}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def show_sums(console: Console, sums: dict[str, str], *, all_add_up: bool) -> None:
    """The closing table and the verdict."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in sums:
        table.add_column(name, justify="right")
    table.add_row(*(f"[bold]{value}[/]" for value in sums.values()))
    console.print()
    console.print(Padding(table, (0, 0, 0, INDENT - 1), expand=False))
    console.print()
    if all_add_up:
        console.print(" [bold green]✓[/]  Every acknowledged request became one session and one verified callback.\n")
    else:
        console.print(" [bold red]✗[/]  The figures do not add up.\n")


def _show_json(console: Console, value: Any) -> None:
    for line in JSON(json.dumps(value), indent=2).text.split("\n"):
        console.print(Text(" " * INDENT) + line, soft_wrap=True)


def _without_nulls(value: Any) -> Any:
    """What is not known yet says nothing to a spectator."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}

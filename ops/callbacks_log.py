"""`python -m ops callbacks list` and `show`: the log of callbacks, for people or as JSON."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops import database_access
from ops.listing import Column, console, listing
from shared.callback_commands import Redeliver
from shared.callback_filter import Condition, conditions_of
from shared.callbacks import State
from shared.resources import rfc3339

MOST: Final = 10_000
# Holds every column on one line.
PIPED_WIDTH: Final = 220
EXIT_UNKNOWN: Final = 1

_COLUMNS: Final = (
    "id", "eventId", "type", "sessionId", "requestId", "client", "url", "state", "reason", "attemptCount",
    "nextAttemptAt", "createdAt", "deliveredAt",
)  # fmt: skip
_ATTEMPT_COLUMNS: Final = (
    "number", "startedAt", "durationMs", "outcome", "statusCode", "error", "responseBody", "manual",
)  # fmt: skip
_STYLES: Final = {State.PENDING: "yellow", State.DELIVERED: "green", State.FAILED: "red"}
_LISTED: Final = (
    Column(name="created (UTC)", rank=5, least=19),
    Column(name="callback", rank=1, least=36),
    Column(name="type", rank=4, least=11, folds=True),
    Column(name="client", rank=10, least=12, folds=True),
    Column(name="url", rank=3, least=16, folds=True),
    Column(name="state", rank=2, least=9),
    Column(name="reason", rank=6, least=9),
    Column(name="attempts", rank=7, least=8, justify="right"),
    Column(name="next attempt", rank=8, least=12, justify="right"),
    Column(name="took", rank=9, least=11, justify="right"),
)
# A URL's query may hold a token of the subscriber's; people who look over a shoulder need not see it.
_SHOWN_URL_CHARS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which callbacks, and how many at most; no filter is all."""

    filter: Redeliver | None = None
    client: str | None = None
    limit: int = 50


def list_callbacks(wanted: Wanted, *, as_json: bool) -> int:
    """Print the log, newest first; return the exit status."""
    return database_access.run(_list(database_access.database_url(), wanted, as_json))


def show(callback_id: UUID, *, as_json: bool) -> int:
    """Print one callback with its body and attempts; return the exit status."""
    return database_access.run(_show(database_access.database_url(), callback_id, as_json))


async def count(url: str, wanted: Redeliver) -> int:
    """Return how many callbacks the filter finds."""
    where, values = _where(conditions_of(wanted))
    async with database_access.connected(url) as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM callback_deliveries{where}", *values))  # noqa: S608 - conditions are ours


async def _list(url: str, wanted: Wanted, as_json: bool) -> int:
    query, values = statement(wanted)
    async with database_access.connected(url) as connection:
        rows = await connection.fetch(query, *values)
    if as_json:
        sys.stdout.writelines(orjson.dumps(_json(row)).decode() + "\n" for row in rows)
    else:
        screen = console(PIPED_WIDTH)
        screen.print(table(rows, datetime.now(UTC), screen.width))
    return 0


def statement(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the SELECT and its values."""
    conditions = [] if wanted.filter is None else conditions_of(wanted.filter)
    if wanted.client is not None:
        conditions.append(Condition("client = {}", wanted.client))
    where, values = _where(conditions)
    columns = _quoted(_COLUMNS)
    return f"SELECT {columns} FROM callback_deliveries{where} ORDER BY id DESC LIMIT {wanted.limit}", values  # noqa: S608 - names are ours


def table(rows: list[Mapping[str, Any]], now: datetime, width: int) -> Table:
    """Return the log as a table; `took` is how long a callback needed until it was delivered."""
    return listing(_LISTED, (_cells(row, now) for row in rows), what="callback", width=width)


def _cells(row: Mapping[str, Any], now: datetime) -> dict[str, Text]:
    state = State(row["state"])
    took = None if row["deliveredAt"] is None else row["deliveredAt"] - row["createdAt"]
    return {
        "created (UTC)": Text(_time(row["createdAt"])),
        "callback": Text(str(row["id"])),
        "type": Text(row["type"]),
        "client": Text(row["client"] or ""),
        "url": Text(_short(row["url"])),
        "state": Text(state, _STYLES[state]),
        "reason": Text(row["reason"] or ""),
        "attempts": Text(str(row["attemptCount"])),
        "next attempt": Text(_until(row["nextAttemptAt"], now)),
        "took": Text("" if took is None else f"{max(0.0, took.total_seconds()):.2f} s"),
    }


async def _show(url: str, callback_id: UUID, as_json: bool) -> int:
    async with database_access.connected(url) as connection:
        one = f"SELECT {_quoted(_COLUMNS)}, body FROM callback_deliveries WHERE id = $1"  # noqa: S608 - names are ours
        row = await connection.fetchrow(one, callback_id)
        attempts = await connection.fetch(
            f"""SELECT {_quoted(_ATTEMPT_COLUMNS)} FROM callback_attempts
            WHERE "callbackId" = $1 AND outcome <> 'not_made' ORDER BY number""",  # noqa: S608 - as above
            callback_id,
        )
    if row is None:
        Console(stderr=True, highlight=False).print(f"There is no callback {callback_id}.", style="red")
        return EXIT_UNKNOWN
    if as_json:
        shown = _json(row) | {"attempts": [_plain(attempt) for attempt in attempts]}
        sys.stdout.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print_one(console(PIPED_WIDTH), row, attempts)
    return 0


def _print_one(screen: Console, row: Mapping[str, Any], attempts: list[Mapping[str, Any]]) -> None:
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _json(row).items():
        if name != "body" and value is not None:
            facts.add_row(Text(name, "bold"), Text(str(value)))
    screen.print(facts)
    screen.print()
    screen.print(attempts_table(attempts))
    screen.print()
    screen.print("Body, as it is signed", style="bold")
    screen.print(row["body"], markup=False, soft_wrap=True)


def attempts_table(attempts: list[Mapping[str, Any]]) -> Table:
    """Return the attempts as a table."""
    shown = _table("attempt", "started (UTC)", "outcome", "status", "took", "said")
    for each in attempts:
        took = "" if each["durationMs"] is None else f"{each['durationMs']:,} ms"
        number = f"{each['number']}{' (manual)' if each['manual'] else ''}"
        said = each["error"] or each["responseBody"] or ""
        style = "green" if each["outcome"] == "delivered" else "red"
        shown.add_row(
            number,
            Text(_time(each["startedAt"])),
            Text(each["outcome"], style),
            str(each["statusCode"] or ""),
            took,
            Text(said.strip()[:200]),
        )
    shown.caption = f"{len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"
    return shown


def _table(*names: str) -> Table:
    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        shown.add_column(name, overflow="fold")
    return shown


def _where(conditions: list[Condition]) -> tuple[str, list[Any]]:
    sql, values = list[str](), list[Any]()
    for condition in conditions:
        if condition.value is not None:
            values.append(condition.value)
        sql.append(condition.sql.format(f"${len(values)}"))
    return f" WHERE {' AND '.join(sql)}" if sql else "", values


def _quoted(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = _plain(row)
    return {"callbackId": shown.pop("id"), **shown}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rfc3339(value) if isinstance(value, datetime) else _text(value) for name, value in row.items()}


def _text(value: Any) -> Any:
    """asyncpg's own UUIDs are of another type, which orjson does not know."""
    return str(value) if isinstance(value, UUID) else value


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _until(at: datetime | None, now: datetime) -> str:
    if at is None:
        return ""
    left_s = (at - now).total_seconds()
    if left_s <= 0:
        return "due"
    return f"in {left_s:.0f} s" if left_s < 120 else f"in {left_s / 60:.0f} min"


def _short(url: str) -> str:
    plain = url.partition("?")[0]
    return plain if len(plain) <= _SHOWN_URL_CHARS else plain[: _SHOWN_URL_CHARS - 1] + "…"

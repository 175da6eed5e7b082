"""The SELECTs on callbacks: a page of the log, one with its attempts, how many a filter finds; and subscriptions."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.database import Database
from gateway.reads import Cursor
from gateway.resources import CALLBACK, SUBSCRIPTION, Row
from shared.callback_commands import Redeliver
from shared.callback_filter import Condition, conditions_of
from shared.callbacks import State

_ATTEMPT_COLUMNS = (
    "number", "startedAt", "durationMs", "outcome", "statusCode", "error", "responseBody", "manual",
)  # fmt: skip
# One that was claimed and never sent is no attempt to anybody.
_MADE = """ FROM callback_attempts WHERE "callbackId" = :key AND outcome <> 'not_made'
    ORDER BY number DESC LIMIT :most"""
# The latest: each redelivery adds one, and each may hold 16 KiB of an answer.
ATTEMPTS_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFilter:
    """Which callbacks, how many, and after which; `client` None is everybody's."""

    client: str | None = None
    session_id: UUID | None = None
    request_id: UUID | None = None
    state: State | None = None
    limit: int
    after: Cursor | None = None


async def read_callbacks(database: Database, wanted: CallbackFilter) -> tuple[list[Row], Cursor | None]:
    """Return a page, newest first, and where the next one begins."""
    rows = await database.read(*page_statement(wanted))
    if len(rows) <= wanted.limit:
        return rows, None
    page = rows[: wanted.limit]
    return page, Cursor(page[-1]["createdAt"], page[-1]["id"])


def page_statement(wanted: CallbackFilter) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of a page and its parameters; one row more than asked for tells whether there is a next page.

    Ids are in the order of time, so they alone are the order of the list.
    """
    conditions = [
        Condition('"sessionId" = {}', wanted.session_id),
        Condition('"requestId" = {}', wanted.request_id),
        Condition("client = {}", wanted.client),
        Condition("id < {}", None if wanted.after is None else wanted.after.id),
    ]
    # A literal, so that a plan that is kept knows how rare the state is: few callbacks fail.
    state = [] if wanted.state is None else [Condition(f"state = '{wanted.state}'")]
    where, values = _where([*state, *(condition for condition in conditions if condition.value is not None)])
    statement = f"SELECT {_quoted(CALLBACK.columns)} FROM {CALLBACK.table}{where} ORDER BY id DESC LIMIT :limit"  # noqa: S608 - names are ours
    return statement, values | {"limit": wanted.limit + 1}


async def read_callback(database: Database, key: UUID, client: str | None) -> tuple[Row, list[Row]] | None:
    """Return the callback with its body, and its attempts; None where this client (None is any) has no such one."""
    own = "" if client is None else " AND client = :client"
    statement = f"SELECT {_quoted((*CALLBACK.columns, 'body'))} FROM {CALLBACK.table} WHERE id = :key{own}"  # noqa: S608 - as above
    rows = await database.read(statement, {"key": key} if client is None else {"key": key, "client": client})
    if not rows:
        return None
    latest = await database.read(f"SELECT {_quoted(_ATTEMPT_COLUMNS)}{_MADE}", {"key": key, "most": ATTEMPTS_MOST})
    return rows[0], latest[::-1]


async def count_callbacks(database: Database, wanted: Redeliver) -> int:
    """Return how many callbacks the filter finds."""
    where, values = _where(conditions_of(wanted))
    rows = await database.read(f"SELECT count(*) AS count FROM {CALLBACK.table}{where}", values)  # noqa: S608 - as above
    return int(rows[0]["count"])


async def read_subscriptions(database: Database, client: str) -> list[Row]:
    """Return all subscriptions of a client, by name; there are few."""
    statement = f"SELECT {_quoted(SUBSCRIPTION.columns)} FROM {SUBSCRIPTION.table} WHERE client = :client ORDER BY name"  # noqa: S608 - as above
    return await database.read(statement, {"client": client})


def _where(conditions: list[Condition]) -> tuple[str, dict[str, Any]]:
    named = [condition.sql.format(f":value_{number}") for number, condition in enumerate(conditions)]
    values = {f"value_{number}": condition.value for number, condition in enumerate(conditions)}
    where = f" WHERE {' AND '.join(named)}" if named else ""
    return where, {name: value for name, value in values.items() if value is not None}


def _quoted(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{column}"' for column in columns)

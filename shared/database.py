"""Postgres through SQLAlchemy Core on asyncpg: the engine, set-based inserts, and what an error means."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import URL, Column, Table, TextClause, make_url, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import JSON, String

from shared.errors import NotProvisioned

# A statement that takes longer is stuck behind something; the batch is retried.
STATEMENT_TIMEOUT_S = 15
CONNECT_TIMEOUT_S = 5
# A dead server that sends no RST is noticed by this client-side bound.
COMMAND_TIMEOUT_S = 20

_SQLSTATE_UNDEFINED_TABLE = "42P01"
_SQLSTATE_UNDEFINED_COLUMN = "42703"
SQLSTATE_INSUFFICIENT_PRIVILEGE = "42501"
_NOT_PROVISIONED = {_SQLSTATE_UNDEFINED_TABLE, _SQLSTATE_UNDEFINED_COLUMN, SQLSTATE_INSUFFICIENT_PRIVILEGE}
# Constraint violations and data the column types refuse: the message's fault, not the server's.
_DATA_FAULT_CLASSES = ("22", "23")
# Connection lost, no connection or memory left, the server starts or stops, its disk fails. While connecting, the
# driver raises these as they are; a ping that finds an idle connection would make them look like the message's fault.
_OUTAGE_CLASSES = ("08", "53", "57", "58")


def driver_url(url: str) -> URL:
    """Return the SQLAlchemy URL of a plain `postgresql://` one; libpq's `sslmode` is asyncpg's `ssl`.

    Raises ValueError for any other parameter: the driver would fail at every connect.
    """
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    if unknown := set(parsed.query) - {"sslmode"}:
        raise ValueError(f"parameter {', '.join(sorted(unknown))} is not known; only sslmode is")
    mode = parsed.query.get("sslmode")
    return parsed.set(query={} if mode is None else {"ssl": mode})


def create_engine(url: str, *, name: str, pool_size: int) -> AsyncEngine:
    """Return an engine whose connections show as `name` in pg_stat_activity. It connects on first use."""
    return create_async_engine(
        driver_url(url),
        # Statements carry driver ids and callback URLs; logs shall not.
        hide_parameters=True,
        # What is read after a lock is what the lock's last holder wrote, whatever a role's default says.
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_recycle=1800,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": COMMAND_TIMEOUT_S,
            "server_settings": {
                "application_name": name,
                "statement_timeout": str(STATEMENT_TIMEOUT_S * 1000),
                "idle_in_transaction_session_timeout": str(COMMAND_TIMEOUT_S * 1000),
                # The planner compiles big set-based statements for longer than they run.
                "jit": "off",
            },
        },
    )


def lock_key(*parts: str) -> int:
    """Return the advisory lock of a name; two names that share one only wait for each other."""
    digest = blake2b("\n".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


async def ping(engine: AsyncEngine) -> None:
    """Raise unless the database answers."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def readiness_fault(engine: AsyncEngine, table: str) -> str | None:
    """Return why this table cannot be read for want of provisioning, or None; raises while the database is away."""
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT FROM {table} LIMIT 1"))
    except ProgrammingError as error:
        return str(not_provisioned(error) or type(error).__name__).splitlines()[0]
    return None


async def insert_rows(tx: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], suffix: str = "") -> Any:
    """Insert all rows with one `unnest` statement; `suffix` is what follows it (ON CONFLICT …, RETURNING …).

    One statement for any number of rows costs 1/20 of an executemany per row, and one plan serves every size.
    """
    return await tx.execute(_insert_statement(table, suffix), _arrays(table.columns, rows))


@cache
def _insert_statement(table: Table, suffix: str) -> TextClause:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    arrays = ", ".join(f"CAST(:{column.name} AS {_array_type(column)})" for column in table.columns)
    picked = ", ".join(_picked(column) for column in table.columns)
    # Names come from the table's definition, values are parameters.
    return text(f"INSERT INTO {table.name} ({names}) SELECT {picked} FROM unnest({arrays}) AS new ({names}) {suffix}")  # noqa: S608


def _picked(column: Column[Any]) -> str:
    return f'CAST(new."{column.name}" AS jsonb)' if isinstance(column.type, JSON) else f'new."{column.name}"'


def _array_type(column: Column[Any]) -> str:
    if isinstance(column.type, JSON | String):
        # A cast to varchar(n) would cut the text silently; assigning text to such a column refuses it.
        return "text[]"
    return f"{column.type.compile(dialect=postgresql.dialect())}[]"  # type: ignore[no-untyped-call]


def _arrays(columns: Iterable[Column[Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {
        column.name: [_json_text(row[column.name]) for row in rows]
        if isinstance(column.type, JSON)
        else [row[column.name] for row in rows]
        for column in columns
    }


def _json_text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database error, where the server gave one."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(origin, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_data_fault(error: BaseException) -> bool:
    """Whether the statement's own values are at fault (SQLSTATE classes 22 and 23)."""
    return (sqlstate(error) or "").startswith(_DATA_FAULT_CLASSES)


def is_outage(error: BaseException) -> bool:
    """Whether the database did not answer or broke off: the same transaction may succeed later."""
    if (sqlstate(error) or "").startswith(_OUTAGE_CLASSES):
        return True
    return isinstance(error, OSError | TimeoutError | PoolTimeout | OperationalError | InterfaceError) or (
        isinstance(error, DBAPIError) and not isinstance(error, ProgrammingError) and not is_data_fault(error)
    )


def not_provisioned(error: BaseException) -> NotProvisioned | None:
    """Return the error that names the mending command, when a table, column or right is missing."""
    if sqlstate(error) not in _NOT_PROVISIONED:
        return None
    return NotProvisioned(f"the database is not provisioned for this process: {origin_of(error)}")


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's own error, without what SQLAlchemy has put around it: classes, SQL, links."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig

"""How commands for operators reach the database: one setting, one connection, and what cannot be had in one line."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from shared import settings
from shared.errors import Unavailable
from shared.settings import DatabaseUrl

EXIT_UNAVAILABLE = 1
CONNECT_TIMEOUT_S = 10
# Another transaction that holds a table for longer than this is stuck; better to say so than to wait behind it.
LOCK_TIMEOUT_S = 15


class DatabaseSettings(BaseSettings):
    """Where the database is."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: DatabaseUrl


def database_url() -> str:
    """Return `DATABASE_URL`, or tell what is wrong with it and exit with 2."""
    return settings.load(DatabaseSettings).database_url.get_secret_value()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection. It has no limit for a statement: files and exports are as long as they are."""
    wanted = {"application_name": "ops", "lock_timeout": f"{LOCK_TIMEOUT_S}s", "jit": "off"}
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=wanted)
    except OSError as error:
        raise Unavailable(str(error) or "no answer") from error
    try:
        yield connection
    finally:
        await connection.close()


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a command and return its exit status; a database that is away or not provisioned is told in a line."""
    try:
        return asyncio.run(work)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        return _told(f"{error}; run: python -m ops provision")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionResetError, Unavailable) as error:
        return _told(str(error).splitlines()[0] if str(error) else type(error).__name__)


def _told(sentence: str) -> int:
    Console(stderr=True, highlight=False).print(f"Database: {sentence}", markup=False, style="red", soft_wrap=True)
    return EXIT_UNAVAILABLE

"""Migrations and database roles. Each function returns its faults in words; none means done."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import shared.migrations
from ops.logins import Login, Logins, Rights
from shared.database import driver_url

Result = TypeVar("Result")

# Two provisioning runs at once must not migrate at once: any number that nobody else uses.
_MIGRATION_LOCK = 7_305_421_001


async def migrate(url: str) -> list[str]:
    """Bring the schema to the newest revision."""
    await _with_connection(url, _upgrade)
    return []


async def compare(url: str) -> list[str]:
    """Say which revision is missing, if any."""
    found = await _with_connection(url, _revision)
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    return [] if found == wanted else [f"schema revision is {found or 'none'}, wanted {wanted}: run provision"]


async def grant(url: str, logins: Logins) -> list[str]:
    """Make each named role, give it its least rights and take all others away."""
    engine = create_async_engine(driver_url(url))
    try:
        async with engine.begin() as tx:
            await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            for login, rights in logins.named():
                await _make_role(tx, login)
                await _set_rights(tx, login.name, rights)
    finally:
        await engine.dispose()
    return []


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(shared.migrations.__file__).parent))
    return config


async def _with_connection(url: str, work: Callable[[Connection], Result]) -> Result:
    engine = create_async_engine(driver_url(url))
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.commit()
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _make_role(tx: AsyncConnection, login: Login) -> None:
    known = await tx.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": login.name})
    verb = "ALTER" if known else "CREATE"
    statement = await tx.scalar(
        text(f"SELECT format('{verb} ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD %L', "
             "CAST(:name AS text), CAST(:password AS text))"),
        {"name": login.name, "password": login.password},
    )  # fmt: skip
    await tx.exec_driver_sql(str(statement))


async def _set_rights(tx: AsyncConnection, name: str, rights: Rights) -> None:
    role = tx.dialect.identifier_preparer.quote(name)
    await tx.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
    await tx.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {role}")
    if rights.reads:
        await tx.exec_driver_sql(f"GRANT SELECT ON {', '.join(rights.reads)} TO {role}")
    if rights.writes:
        await tx.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(rights.writes)} TO {role}")

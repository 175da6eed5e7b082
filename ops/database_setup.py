"""Migrations and database roles. Each function returns its faults in words; none means done."""

import time
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
ASK_AGAIN_S = 0.2

# What a role may do by itself, by membership or as PUBLIC: all of it counts.
_FOUND_GRANTS = text("""
    SELECT tablename, verb FROM pg_tables
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS verb
    WHERE schemaname = 'public' AND has_table_privilege(:name, format('%I.%I', schemaname, tablename), verb)""")
_FOUND_ROLE = text("""
    SELECT rolcanlogin AND has_schema_privilege(oid, 'public', 'USAGE') AS is_usable,
           rolsuper OR rolcreatedb OR rolcreaterole AS is_mighty
    FROM pg_roles WHERE rolname = :name""")


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


async def compare_roles(url: str, logins: Logins) -> list[str]:
    """Say which of the named roles are missing, and which may do less or more than their process needs."""
    engine = create_async_engine(driver_url(url))
    try:
        async with engine.connect() as tx:
            return [fault for login, rights in logins.named() for fault in await _role_faults(tx, login.name, rights)]
    finally:
        await engine.dispose()


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
    _lock(connection)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def _lock(connection: Connection) -> None:
    """Wait for the lock by asking again: who waits in the database keeps indexes from being built CONCURRENTLY."""
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _MIGRATION_LOCK}).scalar_one():
        connection.commit()
        time.sleep(ASK_AGAIN_S)
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
    for table, verbs in rights.tables.items():
        await tx.exec_driver_sql(f"GRANT {', '.join(verbs)} ON {table} TO {role}")


async def _role_faults(tx: AsyncConnection, name: str, rights: Rights) -> list[str]:
    role = (await tx.execute(_FOUND_ROLE, {"name": name})).one_or_none()
    if role is None:
        return [f"role {name} is missing: run provision"]
    faults = [] if role.is_usable else [f"role {name} may not log in and use schema public: run provision"]
    if role.is_mighty:
        faults.append(f"role {name} is a superuser or may create databases or roles: run provision")
    wanted = {(table, verb) for table, verbs in rights.tables.items() for verb in verbs}
    found = {(table, verb) for table, verb in await tx.execute(_FOUND_GRANTS, {"name": name})}
    faults += [f"role {name} may not {verb} on {table}: run provision" for table, verb in sorted(wanted - found)]
    faults += [f"role {name} may {verb} on {table}, and need not" for table, verb in sorted(found - wanted)]
    return faults

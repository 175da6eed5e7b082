"""`python -m ops provision`: migrations, exchanges, queues, and least-privilege roles and users where they are named.

The only code that creates anything. Idempotent; with `check` it compares and changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Self

from aio_pika.exceptions import AMQPError
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from ops import broker_setup, database_setup
from ops.logins import Login, Logins
from shared import settings
from shared.settings import AmqpUrl, DatabaseUrl, HttpUrl

EXIT_DIFFERS = 1


def _check_login(secret: SecretStr) -> SecretStr:
    name, colon, password = secret.get_secret_value().partition(":")
    if not (name and colon and password):
        raise ValueError("must be name:password")
    return secret


LoginSecret = Annotated[SecretStr, AfterValidator(_check_login)]


class ProvisionSettings(BaseSettings):
    """Administrator access, and the logins to make: `name:password` each, for the database and the broker alike."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: DatabaseUrl | None = None
    amqp_url: AmqpUrl | None = None
    admin_database_url: DatabaseUrl | None = None
    admin_amqp_url: AmqpUrl | None = None
    admin_management_url: Annotated[HttpUrl | None, Field(description="http://user:password@host:15672")] = None
    gateway_login: LoginSecret | None = None
    session_worker_login: LoginSecret | None = None
    callback_worker_login: LoginSecret | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.admin_database_url or self.database_url):
            raise ValueError("ADMIN_DATABASE_URL or DATABASE_URL is required")
        if not (self.admin_amqp_url or self.amqp_url):
            raise ValueError("ADMIN_AMQP_URL or AMQP_URL is required")
        if self.logins().named() and not self.admin_management_url:
            raise ValueError("ADMIN_MANAGEMENT_URL is required to make broker users for the *_LOGIN settings")
        return self

    def logins(self) -> Logins:
        return Logins(
            gateway=_login(self.gateway_login),
            session_worker=_login(self.session_worker_login),
            callback_worker=_login(self.callback_worker_login),
        )


def _login(secret: SecretStr | None) -> Login | None:
    if secret is None:
        return None
    name, _, password = secret.get_secret_value().partition(":")
    return Login(name, password)


def main(*, check: bool) -> int:
    """Provision, or compare; return the exit status: 0 when everything is as it should be."""
    return asyncio.run(_provision(settings.load(ProvisionSettings), check))


async def _provision(config: ProvisionSettings, check: bool) -> int:
    console = Console(stderr=True, highlight=False)
    database_url = (config.admin_database_url or config.database_url or SecretStr("")).get_secret_value()
    amqp_url = (config.admin_amqp_url or config.amqp_url or SecretStr("")).get_secret_value()
    management = config.admin_management_url
    steps: list[tuple[str, Callable[[], Awaitable[list[str]]]]]
    if check:
        steps = [
            ("database schema", lambda: database_setup.compare(database_url)),
            ("exchanges and queues", lambda: broker_setup.compare(amqp_url)),
        ]
    else:
        logins = config.logins()
        steps = [
            ("database schema", lambda: database_setup.migrate(database_url)),
            ("exchanges and queues", lambda: broker_setup.declare(amqp_url)),
            ("database roles", lambda: database_setup.grant(database_url, logins)),
        ]
        if management is not None:
            url = management.get_secret_value()
            steps.append(("broker users", lambda: broker_setup.grant(url, amqp_url, logins)))
    faults = [fault for name, step in steps for fault in await _run(console, name, step)]
    return EXIT_DIFFERS if faults else 0


async def _run(console: Console, name: str, step: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Run one step and print how it went; what cannot be reached is a fault like any other."""
    try:
        faults = await step()
    except (SQLAlchemyError, AMQPError, OSError, TimeoutError, broker_setup.ManagementError) as error:
        faults = [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"]
    console.print(f"[{'red' if faults else 'green'}]{'✗' if faults else '✓'}[/] {name}")
    for fault in faults:
        console.print(f"  {fault}", markup=False)
    return faults

"""`python -m ops provision`: migrations, exchanges, queues, and least-privilege roles and users where they are named.

The only code that creates anything. Idempotent; with `check` it compares and changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from aio_pika.exceptions import AMQPError
from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from ops import broker_check, broker_setup, database_setup
from ops.logins import Login, Logins
from ops.management import ManagementError
from shared import settings
from shared.settings import AmqpUrl, DatabaseUrl, HttpUrl

EXIT_DIFFERS = 1
LOGINS = ("gateway_login", "session_worker_login", "callback_worker_login")
ONLY_LOOKED_UP = "not compared without ADMIN_MANAGEMENT_URL: their arguments and bindings, users and their rights"


@dataclass(frozen=True)
class Step:
    """One part of provisioning, or of its check: what it returns are faults. `note` is shown whatever they are."""

    name: str
    work: Callable[[], Awaitable[list[str]]]
    note: str = ""


def _check_login(secret: SecretStr) -> SecretStr:
    name, colon, password = secret.get_secret_value().partition(":")
    if not (name and colon and password):
        raise ValueError("must be name:password")
    return secret


LoginSecret = Annotated[SecretStr, AfterValidator(_check_login)]
# A field that is checked although nothing is set, for what it needs to be depends on the fields before it.
NEEDED: Any = Field(default=None, validate_default=True)


class ProvisionSettings(BaseSettings):
    """Administrator access, and the logins to make: `name:password` each, for the database and the broker alike."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: DatabaseUrl | None = None
    amqp_url: AmqpUrl | None = None
    admin_database_url: DatabaseUrl | None = NEEDED
    admin_amqp_url: AmqpUrl | None = NEEDED
    gateway_login: LoginSecret | None = None
    session_worker_login: LoginSecret | None = None
    callback_worker_login: LoginSecret | None = None
    admin_management_url: HttpUrl | None = NEEDED

    @field_validator("admin_database_url", "admin_amqp_url")
    @classmethod
    def _or_the_process_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """The processes' URL serves as well; where that one is bad, its own fault is told and is enough."""
        other = str(info.field_name).removeprefix("admin_")
        if url is None and info.data.get(other, SecretStr("bad")) is None:
            raise ValueError(f"is required, or {other.upper()}")
        return url

    @field_validator("admin_management_url")
    @classmethod
    def _where_users_are_made(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """A login that is bad is missing from the data, and wants its user all the same."""
        named = [name.upper() for name in LOGINS if info.data.get(name, "bad") is not None]
        if url is None and named:
            raise ValueError(f"is required for {', '.join(named)}: it makes the broker's users")
        return url

    @property
    def database(self) -> str:
        """The database's URL to provision with."""
        return _reveal(self.admin_database_url or self.database_url)

    @property
    def broker(self) -> str:
        """The broker's URL to provision with."""
        return _reveal(self.admin_amqp_url or self.amqp_url)

    @property
    def management(self) -> str | None:
        """The management API's URL, where there is one."""
        return _reveal(self.admin_management_url) if self.admin_management_url else None

    def logins(self) -> Logins:
        return Logins(
            gateway=_login(self.gateway_login),
            session_worker=_login(self.session_worker_login),
            callback_worker=_login(self.callback_worker_login),
        )


def _reveal(secret: SecretStr | None) -> str:
    assert secret is not None  # the settings were refused otherwise
    return secret.get_secret_value()


def _login(secret: SecretStr | None) -> Login | None:
    if secret is None:
        return None
    name, _, password = secret.get_secret_value().partition(":")
    return Login(name, password)


def main(*, check: bool) -> int:
    """Provision, or compare; return the exit status: 0 when everything is as it should be."""
    config = settings.load(ProvisionSettings)
    return asyncio.run(_run_all(_checks(config) if check else _changes(config)))


def _changes(config: ProvisionSettings) -> list[Step]:
    logins, management = config.logins(), config.management
    steps = [
        Step("database schema", lambda: database_setup.migrate(config.database)),
        Step("exchanges, queues and bindings", lambda: broker_setup.declare(config.broker)),
    ]
    if logins.named() and management:
        steps += [
            Step("database roles", lambda: database_setup.grant(config.database, logins)),
            Step("broker users", lambda: broker_setup.grant(management, config.broker, logins)),
        ]
    return steps


def _checks(config: ProvisionSettings) -> list[Step]:
    logins, management = config.logins(), config.management
    steps = [Step("database schema", lambda: database_setup.compare(config.database))]
    if management is None:
        return [*steps, Step("exchanges and queues", lambda: broker_setup.look_up(config.broker), note=ONLY_LOOKED_UP)]
    steps.append(Step("exchanges, queues and bindings", lambda: broker_check.compare(management, config.broker)))
    if logins.named():
        steps += [
            Step("database roles", lambda: database_setup.compare_roles(config.database, logins)),
            Step("broker users", lambda: broker_check.compare_users(management, config.broker, logins)),
        ]
    return steps


async def _run_all(steps: list[Step]) -> int:
    console = Console(stderr=True, highlight=False)
    faults = [fault for step in steps for fault in await _run(console, step)]
    return EXIT_DIFFERS if faults else 0


async def _run(console: Console, step: Step) -> list[str]:
    """Run one step and print how it went; what cannot be reached is a fault like any other."""
    try:
        faults = await step.work()
    except (SQLAlchemyError, AMQPError, OSError, TimeoutError, ManagementError) as error:
        faults = [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"]
    console.print(f"[{'red' if faults else 'green'}]{'✗' if faults else '✓'}[/] {step.name}")
    for line in [*faults, *([step.note] if step.note else [])]:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    return faults

"""Settings from the environment: read once, frozen, every fault named before a process starts."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from yarl import URL

from shared.database import driver_url

# The exit status of a start with bad settings, as of a bad command line.
EXIT_BAD_SETTINGS = 2

Port = Annotated[int, Field(ge=0, le=65535)]


def _check_parameters(secret: SecretStr) -> SecretStr:
    driver_url(secret.get_secret_value())
    return secret


def _url_of(*schemes: str) -> AfterValidator:
    def check(secret: SecretStr) -> SecretStr:
        try:
            url = URL(secret.get_secret_value())
        except ValueError as error:
            raise ValueError("is not a URL") from error
        if url.scheme not in schemes or not url.host:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return secret

    return AfterValidator(check)


DatabaseUrl = Annotated[SecretStr, _url_of("postgresql", "postgres"), AfterValidator(_check_parameters)]
AmqpUrl = Annotated[SecretStr, _url_of("amqp", "amqps")]
HttpUrl = Annotated[SecretStr, _url_of("http", "https")]

# A secret that comes from a file often has its line feed.
Secret = Annotated[SecretStr, AfterValidator(lambda secret: SecretStr(secret.get_secret_value().strip()))]

LowerCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


Value = TypeVar("Value")


def list_of(parse: Callable[[str], Value], what: str, *, secret: bool = False) -> BeforeValidator:
    """Parse a comma-separated text. Every bad item is named by its position, a secret one by nothing else."""

    def parse_all(text: object) -> object:
        if not isinstance(text, str):
            return text
        values, faults = [], []
        for position, item in enumerate(text.split(","), start=1):
            try:
                values.append(parse(item.strip()))
            except ValueError as error:
                name = f"{what} {position}" if secret else f"{what} {position} ({item.strip()})"
                faults.append(f"{name} {error}")
        if faults:
            raise ValueError("; ".join(faults))
        return tuple(values)

    return BeforeValidator(parse_all)


class PaymentProvider(StrEnum):
    """Who collects what sessions cost."""

    NONE = "none"
    SANDBOX = "sandbox"
    STRIPE = "stripe"


class Settings(BaseSettings):
    """What every process reads. Names are those of the environment, in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: DatabaseUrl
    amqp_url: AmqpUrl
    # Where a worker's probes and metrics are served; the gateway has a host of its own.
    worker_http_host: str = "127.0.0.1"
    log_format: Annotated[Literal["json", "console"], LowerCase] = "json"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = "info"


SettingsType = TypeVar("SettingsType", bound=BaseSettings)


def load(model: type[SettingsType]) -> SettingsType:
    """Return the settings, or print every fault on stderr, one a line, and exit with 2."""
    try:
        return model()
    except ValidationError as error:
        _exit_with([f"{_variable(fault['loc'])}: {_sentence(fault)}" for fault in error.errors(include_input=False)])


def _exit_with(faults: list[str]) -> NoReturn:
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    raise SystemExit(EXIT_BAD_SETTINGS)


def _variable(location: tuple[int | str, ...]) -> str:
    return str(location[0]).upper() if location else "settings"


def _sentence(fault: object) -> str:
    assert isinstance(fault, dict)
    if fault["type"] == "missing":
        return "is required"
    return str(fault["msg"]).removeprefix("Value error, ")

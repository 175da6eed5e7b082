"""Settings of the callback worker; docs/configuration.md tells what each is for."""

import math
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from callback_worker.addresses import parse_network
from callback_worker.signature import SigningKey, parse_key
from shared.settings import Port, Settings

Value = TypeVar("Value")


def _list_of(parse: Callable[[str], Value], what: str, *, secret: bool = False) -> BeforeValidator:
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


def _wait_s(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError("is not a number") from error
    if not math.isfinite(value) or value < 0:
        raise ValueError("must be 0 or more seconds")
    return value


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise ValueError("is not a network such as 10.0.0.0/8") from error


SigningKeys = Annotated[
    tuple[SigningKey, ...], NoDecode, _list_of(parse_key, "key", secret=True), Field(min_length=1, repr=False)
]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, _list_of(_network, "network")]
Schedule = Annotated[tuple[float, ...], NoDecode, _list_of(_wait_s, "wait"), Field(min_length=1)]


class CallbackWorkerSettings(Settings):
    """What the callback worker reads beyond the settings of every process."""

    callback_worker_http_port: Port = 3002
    callback_signing_keys: SigningKeys
    callback_allowed_networks: Networks = ()
    callback_require_https: bool = False
    callback_retry_schedule_s: Schedule = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    callback_timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 15
    callback_expires_s: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] = 259_200
    callback_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 200
    callback_concurrency_per_host: Annotated[int, Field(ge=1, le=10_000)] = 20

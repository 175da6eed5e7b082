"""Settings of the callback worker; docs/configuration.md tells what each is for."""

import math
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import Field
from pydantic_settings import NoDecode

from callback_worker.addresses import parse_network
from callback_worker.ports import parse_ports
from shared.retention.settings import CallbackRetention
from shared.settings import Port, Settings, list_of
from shared.signing_keys import SigningKeys
from shared.signing_pair import OptionalSigningPair


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


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, list_of(_network, "network")]
Ports = Annotated[tuple[range, ...] | None, NoDecode, list_of(parse_ports, "port")]
Schedule = Annotated[tuple[float, ...], NoDecode, list_of(_wait_s, "wait"), Field(min_length=1)]


class CallbackWorkerSettings(Settings, CallbackRetention):
    """What the callback worker reads beyond the settings of every process."""

    callback_worker_http_port: Port = 3002
    callback_signing_keys: SigningKeys
    callback_ed25519_key: OptionalSigningPair = None
    callback_allowed_networks: Networks = ()
    callback_allowed_ports: Ports = None
    callback_require_https: bool = False
    callback_retry_schedule_s: Schedule = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    callback_timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 15
    callback_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 200
    callback_concurrency_per_host: Annotated[int, Field(ge=1, le=10_000)] = 20

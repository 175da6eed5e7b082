"""The gateway's settings; with the key file, all that can be wrong is known before it listens."""

import ipaddress
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from gateway.auth import ApiKey, parse_line, read_lines
from shared.payments import refuse_without_stripe
from shared.settings import LowerCase, PaymentProvider, Port, Secret, Settings

# One process saturates a core; more than this is a mistyped port.
MAX_PROCESSES = 64


def _lines_of_file(value: Any) -> Any:
    return read_lines(value) if isinstance(value, str) else value


# A line each, so that every faulty line is a fault of its own.
ApiKeyLine = Annotated[ApiKey, BeforeValidator(lambda value: parse_line(value) if isinstance(value, tuple) else value)]


class GatewaySettings(Settings):
    """Fields that others are checked against come first."""

    allow_anonymous: bool = False
    api_keys: Annotated[tuple[ApiKeyLine, ...] | None, NoDecode, BeforeValidator(_lines_of_file)] = Field(
        default=None, validation_alias="API_KEYS_FILE"
    )
    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 3000
    gateway_processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    # Whom exported charge detail records name as their owner; XX is no country.
    ocpi_country_code: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "XX"
    ocpi_party_id: Annotated[str, Field(pattern="^[A-Z0-9]{3}$")] = "VLT"
    payment_provider: Annotated[PaymentProvider, LowerCase] = PaymentProvider.SANDBOX
    # Proves that events come from Stripe; `whsec_…`, of the webhook endpoint that is registered there.
    stripe_webhook_secret: Annotated[Secret | None, Field(validate_default=True)] = None
    # Not for people: the listening sockets that a gateway hands to the processes it starts.
    gateway_listening_fds: Annotated[tuple[int, ...], NoDecode] = ()

    @field_validator("gateway_listening_fds", mode="before")
    @classmethod
    def _split_fds(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("api_keys", mode="after")
    @classmethod
    def _refuse_shared_keys(cls, keys: tuple[ApiKey, ...] | None) -> tuple[ApiKey, ...] | None:
        if keys is not None and len({key.digest for key in keys}) < len(keys):
            raise ValueError("two lines have the same key")
        return keys

    @field_validator("payment_provider", mode="after")
    @classmethod
    def _can_be_spoken_to(cls, provider: PaymentProvider) -> PaymentProvider:
        if provider is PaymentProvider.STRIPE:
            refuse_without_stripe()
        return provider

    @field_validator("stripe_webhook_secret", mode="after")
    @classmethod
    def _needed_for_stripe(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if not (secret and secret.get_secret_value()) and info.data.get("payment_provider") is PaymentProvider.STRIPE:
            raise ValueError("is required with PAYMENT_PROVIDER=stripe")
        return secret

    @field_validator("gateway_host", mode="after")
    @classmethod
    def _refuse_open_door(cls, host: str, info: ValidationInfo) -> str:
        # A key file with faults is missing from the data: it is reported as such, not as a missing file.
        is_anonymous = "api_keys" in info.data and info.data["api_keys"] is None
        if is_anonymous and not info.data.get("allow_anonymous") and not _is_loopback(host):
            raise ValueError(
                f"{host} can be reached from other machines and anybody could call: "
                "set API_KEYS_FILE, or ALLOW_ANONYMOUS=true"
            )
        return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

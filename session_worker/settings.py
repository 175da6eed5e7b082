"""The session worker's settings."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from session_worker.apply import Policy
from session_worker.authorize import Authorization
from session_worker.payments.rules import Terms
from shared.fields import Currency
from shared.payments import refuse_without_stripe
from shared.retention.settings import SessionRetention
from shared.settings import HttpUrl, LowerCase, PaymentProvider, Port, Secret, Settings


class SessionWorkerSettings(Settings, SessionRetention):
    """What `python -m session_worker` reads from the environment."""

    session_worker_http_port: Port = 3001
    authorization: Annotated[Authorization, LowerCase] = Authorization.OPEN
    authorization_timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 10
    authorization_url: Annotated[HttpUrl | None, Field(validate_default=True)] = None
    payment_provider: Annotated[PaymentProvider, LowerCase] = PaymentProvider.SANDBOX
    # Where drivers reach the gateway: the sandbox's pay page, and where Stripe's page sends them back to.
    gateway_public_url: HttpUrl = SecretStr("http://localhost:3000")
    default_currency: Currency = "EUR"
    stripe_api_key: Annotated[Secret | None, Field(validate_default=True)] = None
    stripe_api_base: HttpUrl | None = None

    @field_validator("authorization_url")
    @classmethod
    def _asked_where(cls, url: HttpUrl | None, info: ValidationInfo) -> HttpUrl | None:
        if url is None and info.data.get("authorization") is Authorization.HTTP:
            raise ValueError("is required with AUTHORIZATION=http")
        return url

    @field_validator("stripe_api_key")
    @classmethod
    def _paid_with(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("payment_provider") is PaymentProvider.STRIPE:
            if key is None:
                raise ValueError("is required with PAYMENT_PROVIDER=stripe")
            refuse_without_stripe()
        return key

    def policy(self, terms: Terms | None) -> Policy:
        """Return how requests are judged, and payments made."""
        timeout = timedelta(seconds=self.authorization_timeout_s)
        return Policy(self.authorization, timeout, terms, self.default_currency, self.inbox_retention_days)

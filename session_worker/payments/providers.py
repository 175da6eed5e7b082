"""The payment provider that the settings name."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker.payments.provider import Provider
from session_worker.payments.rules import Terms
from session_worker.payments.sandbox import SandboxProvider
from session_worker.settings import SessionWorkerSettings
from shared.payments import RETURN_PATH
from shared.settings import PaymentProvider


def provider_of(config: SessionWorkerSettings, engine: AsyncEngine, clock: Callable[[], datetime]) -> Provider | None:
    """Return the provider, or None where payments are somebody else's business."""
    public_url = config.gateway_public_url.get_secret_value().rstrip("/")
    match config.payment_provider:
        case PaymentProvider.NONE:
            return None
        case PaymentProvider.SANDBOX:
            return SandboxProvider(engine, public_url, now=clock)
        case PaymentProvider.STRIPE:
            # An optional extra, and slow to import.
            from session_worker.payments.stripe_provider import StripeProvider  # noqa: PLC0415

            assert config.stripe_api_key is not None
            base = config.stripe_api_base
            return StripeProvider(
                api_key=config.stripe_api_key.get_secret_value(),
                api_base=None if base is None else base.get_secret_value(),
                return_url=public_url + RETURN_PATH,
            )


def terms_of(provider: Provider | None) -> Terms | None:
    """Return on what terms sessions are charged."""
    return (
        None if provider is None else Terms(provider=provider.name, minimum_minor=provider.capabilities.minimum_minor)
    )

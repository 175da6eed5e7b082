"""What the gateway and the session worker both know of payment providers: paths of pages, the sandbox's events."""

from importlib.util import find_spec
from typing import Final

# Where drivers land after a provider's own page, and the sandbox's pay page with the link's id behind it.
RETURN_PATH: Final = "/payment/return"
PAY_PATH: Final = "/sandbox/pay"

LINK_PAID: Final = "link.paid"
LINK_DECLINED: Final = "link.declined"


def refuse_without_stripe() -> None:
    """Raise ValueError where Stripe's package, an optional extra, is not installed."""
    if find_spec("stripe") is None:
        raise ValueError("needs Stripe's package: pip install 'voltline[stripe]'")

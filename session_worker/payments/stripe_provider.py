"""Stripe as the payment provider: a link is a Checkout Session, which takes one payment; a refund is a Refund.

Speaks the version of https://docs.stripe.com/api that the SDK pins. Of an error only type, code and parameter count,
never the sentence. An answer that cannot be read is Retryable: whether Stripe acted is not known.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import stripe
from pydantic import BaseModel

from session_worker.payments.minimums import MAXIMUM_MINOR, MINIMUM_MINOR
from session_worker.payments.provider import (
    Capabilities,
    Declined,
    InvalidState,
    Link,
    LinkOrder,
    LinkRef,
    Misconfigured,
    NotFound,
    Notice,
    ProviderError,
    Refund,
    RefundOrder,
    RefundRef,
    Retryable,
)
from session_worker.payments.stripe_objects import (
    CheckoutSession,
    Page,
    RefundObject,
    link_of,
    notice_of,
    refund_of,
    stripe_amount,
)

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams

# Stripe answers within two seconds; and a payment's lease, which others wait for, must outlast a call.
DEADLINE_S: Final = 10.0
# Stripe's limit for the name of a product.
NAME_MOST_CHARS: Final = 250
# The most that Stripe puts on a page.
PAGE_SIZE: Final = 100
# A thousand objects made since ours was asked for: as many pages as the deadline has time for.
MOST_PAGES: Final = 10
# `created` is by Stripe's clock, `asked_at` by ours.
CLOCK_SKEW_S: Final = 300

_WITH_PAYMENT: Final = ["payment_intent"]
_MISCONFIGURED: Final = {
    "api_key_expired",
    "livemode_mismatch",
    "platform_api_key_expired",
    "secret_key_required",
    "testmode_charges_only",
    "url_invalid",  # the only URL that we send is the return URL of the settings
}
_MOVED_ON: Final = {"charge_already_refunded", "intent_invalid_state", "payment_intent_unexpected_state"}
_REASONS: Final = {"amount_too_small": "AMOUNT_TOO_SMALL", "amount_too_large": "AMOUNT_TOO_LARGE"}

_Refusal = stripe.InvalidRequestError | stripe.CardError
_Read = TypeVar("_Read", bound=BaseModel)


class _Transport(stripe.HTTPXClient):
    """The SDK's HTTP without proxies of the environment: our key goes to Stripe, and nowhere else.

    The SDK hands httpx a body in a way that httpx warns about, and takes the warning for a broken connection.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout=timeout_s)
        self._client_async = self.httpx.AsyncClient(trust_env=False, timeout=timeout_s)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            answer = await self._client_async.request(method, url, headers=headers, content=post_data)
        except Exception as error:  # as the SDK does: whatever it is, there was no answer
            self._handle_request_error(error)
        return answer.content, answer.status_code, answer.headers


class StripeProvider:
    """A client's lifetime: `close` it. `return_url` is where the driver lands after paying, and after giving up.

    InvalidState has two more causes: a key that was used for another order, and for `create_link` an expiry that is out
    of Stripe's bounds by now. Look for the object by its reference then; where there is none, ask under a new key.
    """

    name: Final = "stripe"
    capabilities: Final = Capabilities(
        minimum_minor=MINIMUM_MINOR,
        maximum_minor=MAXIMUM_MINOR,
        shortest_lifetime=timedelta(minutes=30),  # from the moment that Stripe makes the link
        longest_lifetime=timedelta(hours=24),
    )

    def __init__(
        self, api_key: str, *, return_url: str, api_base: str | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        # It would keep a file in the home directory, and tell Stripe about this machine.
        stripe.enable_telemetry = False
        self._return_url = return_url
        self._deadline_s = deadline_s
        self._transport = _Transport(deadline_s)
        self._v1 = stripe.StripeClient(
            api_key,
            http_client=self._transport,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            max_network_retries=0,  # repetition is the caller's
        ).v1

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close_async()  # type: ignore[no-untyped-call]

    async def create_link(self, order: LinkOrder) -> Link:
        async with self._answered(_is_bad_expiry), _fresh():
            made = await self._v1.checkout.sessions.create_async(
                self._session_params(order), {"idempotency_key": order.key}
            )
            if _is_replay(made):
                return await self._link(made.id)
            return link_of(_read(CheckoutSession, made))

    async def expire_link(self, ref: LinkRef) -> Link:
        async with self._answered():
            link_id = await self._link_id(ref)
            try:
                ended = await self._v1.checkout.sessions.expire_async(link_id, {"expand": _WITH_PAYMENT})
            except stripe.InvalidRequestError as error:
                # Stripe has no code for a session that is not open any more.
                current = await self._v1.checkout.sessions.retrieve_async(link_id)
                if current.status != "open":
                    raise InvalidState(f"the session is {current.status}") from error
                raise
            return link_of(_read(CheckoutSession, ended))

    async def get_link(self, ref: LinkRef) -> Link:
        async with self._answered():
            return await self._link(await self._link_id(ref))

    async def refund(self, order: RefundOrder) -> Refund:
        async with self._answered(_is_over_refund), _fresh():
            made = await self._v1.refunds.create_async(
                {
                    "payment_intent": order.payment_id,
                    "amount": stripe_amount(order.money),
                    "metadata": _metadata(order),
                },
                {"idempotency_key": order.key},
            )
            if _is_replay(made):
                made = await self._v1.refunds.retrieve_async(made.id)
            return refund_of(_read(RefundObject, made))

    async def get_refund(self, ref: RefundRef) -> Refund:
        async with self._answered():
            of_payment = {"payment_intent": ref.payment_id}
            refund_id = ref.refund_id or await _find(self._v1.refunds.list_async, of_payment, ref.reference)
            return refund_of(_read(RefundObject, await self._v1.refunds.retrieve_async(refund_id)))

    async def parse_webhook(self, event: Mapping[str, Any]) -> Notice | None:
        return notice_of(event)

    async def _link(self, link_id: str) -> Link:
        found = await self._v1.checkout.sessions.retrieve_async(link_id, {"expand": _WITH_PAYMENT})
        return link_of(_read(CheckoutSession, found))

    async def _link_id(self, ref: LinkRef) -> str:
        since = {"created": {"gte": int(ref.asked_at.timestamp()) - CLOCK_SKEW_S}}
        return ref.link_id or await _find(self._v1.checkout.sessions.list_async, since, ref.reference)

    def _session_params(self, order: LinkOrder) -> "SessionCreateParams":
        return {
            "mode": "payment",
            "client_reference_id": str(order.reference),
            "metadata": _metadata(order),
            "payment_intent_data": {"metadata": _metadata(order)},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": order.money.currency.lower(),
                        "unit_amount": stripe_amount(order.money),
                        "product_data": {"name": order.description[:NAME_MOST_CHARS]},
                    },
                }
            ],
            "expires_at": int(order.expires_at.timestamp()),
            "success_url": self._return_url,
            "cancel_url": self._return_url,
            "expand": _WITH_PAYMENT,
        }

    @asynccontextmanager
    async def _answered(self, is_invalid: Callable[[_Refusal], bool] = lambda _: False) -> AsyncIterator[None]:
        """Hold the deadline, and raise what Stripe's errors mean; `is_invalid` knows the call's own InvalidState."""
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError as error:
            raise Retryable("no answer in time") from error
        except (stripe.InvalidRequestError, stripe.CardError) as error:
            raise (InvalidState(_detail(error)) if is_invalid(error) else _refused(error)) from error
        except stripe.StripeError as error:
            raise _failed(error) from error
        # The SDK stumbles over an answer that is JSON but no object, and we over one without its fields.
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Retryable(f"an answer that cannot be read: {type(error).__name__}") from error


@asynccontextmanager
async def _fresh() -> AsyncIterator[None]:
    """Raise InvalidState where the key stands for a failure, which Stripe then repeats for a day."""
    try:
        yield
    except stripe.APIError as error:
        if (error.headers or {}).get("Idempotent-Replayed") == "true":
            raise InvalidState(_detail(error)) from error
        raise


async def _find(list_async: Callable[[Any], Awaitable[object]], among: Mapping[str, Any], reference: UUID) -> str:
    """Return the id of the newest object that bears our reference. Raises NotFound once all were seen."""
    params = {**among, "limit": PAGE_SIZE}
    for _ in range(MOST_PAGES):
        page = _read(Page, await list_async(params))
        for listed in page.data:
            if listed.bears(reference):
                return listed.id
        if not page.has_more:
            raise NotFound(f"nothing bears the reference {reference}")
        params["starting_after"] = page.data[-1].id
    # Perhaps it is further down; the caller then repeats its order under the same key, which makes nothing twice.
    raise NotFound(f"nothing on {MOST_PAGES} pages bears the reference {reference}")


def _read(model: type[_Read], answer: object) -> _Read:
    return model.model_validate(answer.to_dict() if isinstance(answer, stripe.StripeObject) else answer)


def _is_replay(made: stripe.StripeObject) -> bool:
    """Whether this is the recorded answer to an earlier request under the key, and so perhaps out of date."""
    return made.last_response is not None and made.last_response.headers.get("Idempotent-Replayed") == "true"


def _metadata(order: LinkOrder | RefundOrder) -> dict[str, str]:
    return {"reference": str(order.reference), "sessionId": str(order.session_id)}


def _is_bad_expiry(error: _Refusal) -> bool:
    return str(error.param) == "expires_at"


def _is_over_refund(error: _Refusal) -> bool:
    """Stripe has no code of its own for more than is left; a bad number has another one."""
    return str(error.param) == "amount" and error.code in (None, "amount_too_large")


def _refused(error: _Refusal) -> ProviderError:
    code, detail = error.code, _detail(error)
    if code == "resource_missing":
        return NotFound(detail)
    # A path that is not there is no answer of Stripe's API at all.
    if code in _MISCONFIGURED or (code is None and error.http_status == HTTPStatus.NOT_FOUND):
        return Misconfigured(detail)
    if code in _MOVED_ON:
        return InvalidState(detail)
    return Declined(_REASONS.get(code or "", "PROVIDER_DECLINED"), detail)


def _failed(error: stripe.StripeError) -> ProviderError:
    """Return what an error means that is no refusal of the order: 409 too, which says that the key is at work now."""
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            return Misconfigured(_detail(error))
        case stripe.IdempotencyError():
            return InvalidState(_detail(error))
        case _:
            return Retryable(_detail(error), retry_after_s=_retry_after_s(error))


def _retry_after_s(error: stripe.StripeError) -> float | None:
    """Return Stripe's wish in seconds; nonsense, or a date, is none."""
    try:
        wish = float((error.headers or {}).get("Retry-After", ""))
    except ValueError:
        return None
    return wish if isfinite(wish) and wish >= 0 else None


def _detail(error: stripe.StripeError) -> str:
    """Return what an operator can look up at Stripe, without the sentence, which quotes what was sent."""
    cause = type(error.__cause__).__name__ if error.__cause__ else None
    param = getattr(error, "param", None)
    parts = (type(error).__name__, cause, error.http_status, error.code, param, error.request_id)
    return " ".join(str(part) for part in parts if part)

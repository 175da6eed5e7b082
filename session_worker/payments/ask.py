"""Takes one step at the provider and returns what it answered, as facts about the object.

A call that was begun before is looked up before it is made again. Killed anywhere, the step is taken again: the key,
stored before, makes that harmless. Raises a ProviderError where there is no answer, or what a provider's own books
raise when away: then the step is taken again later.
"""

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Final, TypeVar, assert_never

from session_worker.payments.learning import (
    Answer,
    LinkFound,
    LinkMissing,
    LinkRefused,
    RefundFound,
    RefundMissing,
    RefundRefused,
)
from session_worker.payments.provider import (
    Declined,
    InvalidState,
    Link,
    LinkRef,
    NotFound,
    Provider,
    RefundRef,
    Retryable,
)
from session_worker.payments.steps import (
    CheckLink,
    CheckRefund,
    CreateLink,
    ExpireLink,
    SendRefund,
    Step,
    ends_too_soon,
)

# Two calls (look up, then make) with their own deadlines fit into it, and it into the lease of a payment.
STEP_TIMEOUT_S: Final = 25.0

Result = TypeVar("Result")


async def ask(provider: Provider, step: Step, now: datetime) -> Answer:
    """Take the step. Ends within `STEP_TIMEOUT_S`."""
    return await _within(_ask(provider, step, now))


async def _within(work: Awaitable[Result]) -> Result:
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            return await work
    except TimeoutError as error:
        raise Retryable(f"no answer within {STEP_TIMEOUT_S:g} s") from error


async def _ask(provider: Provider, step: Step, now: datetime) -> Answer:
    match step:
        case CreateLink():
            return await _create(provider, step, now)
        case ExpireLink(ref):
            return await _expire(provider, ref)
        case CheckLink(ref):
            return await _check(provider, ref)
        case SendRefund():
            return await _refund(provider, step)
        case CheckRefund(refund_ref):
            return await _check_refund(provider, refund_ref)
    assert_never(step)


async def _create(provider: Provider, step: CreateLink, now: datetime) -> Answer:
    reference = step.order.reference
    if step.was_asked:
        found = await _found(provider, step.ref)
        if found is not None:
            return LinkFound(reference, found)
        if ends_too_soon(step.order, provider.capabilities.shortest_lifetime, now):
            return LinkMissing(reference)
    if step.order.money.minor > provider.capabilities.maximum_minor:
        return LinkRefused(reference, "AMOUNT_TOO_LARGE")
    try:
        return LinkFound(reference, await provider.create_link(step.order))
    except Declined as declined:
        return LinkRefused(reference, declined.reason)
    except InvalidState:
        # The key stands for another order, or its time is not taken: what there is, is found by our reference.
        found = await _found(provider, step.ref)
        return LinkMissing(reference, is_refused=True) if found is None else LinkFound(reference, found)


async def _found(provider: Provider, ref: LinkRef) -> Link | None:
    try:
        return await provider.get_link(ref)
    except NotFound:
        return None


async def _check(provider: Provider, ref: LinkRef) -> Answer:
    found = await _found(provider, ref)
    return LinkMissing(ref.reference) if found is None else LinkFound(ref.reference, found)


async def _check_refund(provider: Provider, ref: RefundRef) -> Answer:
    try:
        return RefundFound(ref.reference, await provider.get_refund(ref))
    except NotFound:
        return RefundMissing(ref.reference)


async def _expire(provider: Provider, ref: LinkRef) -> Answer:
    try:
        return LinkFound(ref.reference, await provider.expire_link(ref))
    except (InvalidState, NotFound):
        return await _check(provider, ref)


async def _refund(provider: Provider, step: SendRefund) -> Answer:
    reference = step.order.reference
    if step.was_asked:
        try:
            return RefundFound(reference, await provider.get_refund(step.ref))
        except NotFound:
            pass
    try:
        return RefundFound(reference, await provider.refund(step.order))
    except Declined as declined:
        return RefundRefused(reference, declined.reason)
    except NotFound:
        return RefundRefused(reference, "UNKNOWN_AT_PROVIDER")
    except InvalidState:
        return await _refund_after_all(provider, step)


async def _refund_after_all(provider: Provider, step: SendRefund) -> Answer:
    """The money is gone already: by this refund, whose answer was lost, or by one that somebody made elsewhere."""
    try:
        return RefundFound(step.order.reference, await provider.get_refund(step.ref))
    except NotFound:
        return RefundRefused(step.order.reference, "NOT_TAKEN")

"""Readiness tells (G9): false within 30 s where nothing can be done, true again soon after; both edges are measured."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ops.local_stack.processes import Name
from tests.faults.site import Site

UNREADY_WITHIN_S = 30.0
READY_AGAIN_WITHIN_S = 30.0

Act = Callable[[], Awaitable[Any]]


async def edges(site: Site, names: Iterable[Name], break_it: Act, mend_it: Act) -> str:
    """Break it until every process of these kinds says so, mend it until every one has taken it back; return how long.

    The seconds for each kind are those of its slowest process, first to become unready, then to become ready again.
    """
    names = list(names)
    await break_it()
    try:
        unready = await asyncio.gather(*(says_unready(site, name) for name in names))
    finally:
        await mend_it()
    again = await asyncio.gather(*(says_ready_again(site, name) for name in names))
    return ", ".join(
        f"{name} unready {gone_s:.1f} s, ready {back_s:.1f} s after"
        for name, gone_s, back_s in zip(names, unready, again, strict=True)
    )


async def says_unready(site: Site, name: Name) -> float:
    """Wait until every process of the kind says that it is not ready; fail when one does not within 30 s."""
    return max(await _each(site, name, is_ready=False, timeout_s=UNREADY_WITHIN_S))


async def says_ready_again(site: Site, name: Name) -> float:
    """Wait until every process of the kind says that it is ready; fail when one does not in time."""
    return max(await _each(site, name, is_ready=True, timeout_s=READY_AGAIN_WITHIN_S))


async def _each(site: Site, name: Name, *, is_ready: bool, timeout_s: float) -> list[float]:
    members = site.crew.members[name]
    waits: list[Awaitable[float | None]] = [
        site.crew.until_ready(process, is_ready=is_ready, timeout_s=timeout_s) for process in members
    ]
    found = await asyncio.gather(*waits)
    late = [seconds for seconds in found if seconds is None]
    assert not late, f"{len(late)} {name}s did not say {'ready' if is_ready else 'unready'} within {timeout_s:.0f} s"
    return [seconds for seconds in found if seconds is not None]

"""Event loops: what hostile subscribers do to sockets is tried on each loop that a worker may run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

try:
    import uvloop
except ImportError:  # no uvloop on Windows
    uvloop = None  # type: ignore[assignment]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the hostile tests on both, all others on asyncio's own."""
    if uvloop is None or not item.path.name.startswith("test_hostile_"):
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

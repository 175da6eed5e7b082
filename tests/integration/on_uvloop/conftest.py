"""The event loop of the workers: what hostile subscribers do to sockets is tried on it, too."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

try:
    import uvloop
except ImportError:  # no uvloop on Windows, where workers run on asyncio's own loop
    uvloop = None  # type: ignore[assignment]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of this folder on uvloop."""
    return {"loop": asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop}

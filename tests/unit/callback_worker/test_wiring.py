"""What only the composition of the process makes true."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from callback_worker.__main__ import _wire
from callback_worker.settings import CallbackWorkerSettings
from shared.database import create_engine
from shared.database_clock import DatabaseClock
from shared.settings import load

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> CallbackWorkerSettings:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@localhost/d")
    monkeypatch.setenv("AMQP_URL", "amqp://localhost/")
    monkeypatch.setenv("CALLBACK_SIGNING_KEYS", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return load(CallbackWorkerSettings)


async def test_after_a_step_of_the_databases_clock_nobodys_lease_is_taken_over(config: CallbackWorkerSettings) -> None:
    """Forward it would end the leases of all that is in flight, at once and for every worker."""
    engine = create_engine("postgresql://u@localhost/d", name="test", pool_size=1)
    clock = DatabaseClock(engine, elapsed_s=lambda: 0.0)
    async with asyncio.TaskGroup() as tasks:
        parts = _wire(config, engine, clock, cast("Any", None), tasks, asyncio.Event())
    assert parts.retries._patience is parts.redeliveries._patience is parts.upkeep._patience
    clock.learn(NOW, asked_s=0.0, answered_s=0.0)
    assert not parts.retries._patience.is_settling()
    clock.learn(NOW + timedelta(hours=1), asked_s=0.0, answered_s=0.0)
    assert clock.now() == NOW + timedelta(hours=1)
    assert parts.retries._patience.is_settling()
    await engine.dispose()

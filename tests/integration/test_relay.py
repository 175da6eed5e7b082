"""Who commits an event publishes it: nobody waits for the sweeper, which finds what was left behind."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ops.local_stack.processes import Processes
from tests.servers import REPOSITORY
from tests.wire import Wire

# To the sweeper nothing is left behind.
AT_EASE = """
from datetime import timedelta
from session_worker import sweeper
sweeper.LEFT_BEHIND_AFTER = timedelta(hours=1)
"""


@pytest.fixture
def at_ease(tmp_path: Path) -> dict[str, Any]:
    """The environment in which a worker's sweeper publishes nothing."""
    (tmp_path / "sitecustomize.py").write_text(AT_EASE)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}


async def test_events_are_published_without_a_sweeper(
    processes: Processes, wire: Wire, at_ease: dict[str, Any]
) -> None:
    """Of commands, of a request's verdict, and of a payment's step."""
    authorization: dict[str, Any] = {
        "AUTHORIZATION": "http", "AUTHORIZATION_TIMEOUT_S": "1", "AUTHORIZATION_URL": "http://127.0.0.1:1/",
    }  # fmt: skip
    worker = await processes.start("session_worker", **authorization, **at_ease)
    body = {"stationId": f"S-{uuid4()}", "driverId": "D", "callbackUrl": "http://127.0.0.1:1/"}
    request_id = await wire.publish("session.request.v1", body)
    session_id = await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
    await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "12.00"})
    for kind in ("session.started", "session.completed", "payment.link_created"):
        await wire.event(lambda data, kind=kind: (data["type"], data.get("sessionId")) == (kind, session_id))  # type: ignore[misc]
    await wire.event(lambda data: data.get("requestId") == request_id)
    assert "events_swept" not in worker.log.read_text()
    assert await worker.stop() == 0

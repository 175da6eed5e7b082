"""The demo's load: 1,000 requests, counted at each end of the way: acknowledgement, database row, verified callback."""

import asyncio
import secrets
import time
from collections import Counter
from dataclasses import dataclass

import httpx

from ops import demo_screen as screen
from ops.demo_story import DemoFailed, Scene
from ops.receiver import Callback

REQUEST_COUNT = 1_000
# Enough to keep the gateway's confirms in a pipeline; more only lengthens the queue in this very process.
CONCURRENCY = 32
# On two busy cores the load takes some 5 s.
LOAD_TIMEOUT_S = 120
REFRESH_INTERVAL_S = 0.1
CALLBACK_PATH = "/load"

APPLIED = 'SELECT "requestId"::text FROM charging_sessions WHERE "requestId" = ANY($1::uuid[])'


@dataclass(frozen=True)
class LoadSums:
    """Sets of request ids, one for each end of the way. A row too many shows in `row_count`."""

    sent_count: int
    acknowledged: frozenset[str]
    applied: frozenset[str]
    delivered: frozenset[str]
    row_count: int
    elapsed_s: float

    @property
    def lost_count(self) -> int:
        """Acknowledged requests without a row or without a verified callback."""
        return len(self.acknowledged - (self.applied & self.delivered))

    @property
    def all_add_up(self) -> bool:
        """Whether every request became exactly one session and at least one verified callback."""
        every = self.acknowledged == self.applied == self.delivered
        return every and len(self.acknowledged) == self.sent_count == self.row_count

    def texts(self) -> dict[str, str]:
        """The closing table."""
        return {
            "acknowledged": f"{len(self.acknowledged):,}",
            "applied": f"{self.row_count:,}",
            "delivered": f"{len(self.delivered):,}",
            "lost": f"{self.lost_count:,}",
            "seconds": f"{self.elapsed_s:.1f}",
        }


async def run_load(scene: Scene) -> LoadSums:
    """Sends the requests and waits for their callbacks, with bars; never longer than `LOAD_TIMEOUT_S`."""
    began = time.monotonic()
    acknowledged: list[str] = []
    with screen.new_progress(scene.console) as progress:
        bars = {name: progress.add_task(name, total=REQUEST_COUNT) for name in ("acknowledged", "delivered")}

        def refresh() -> int:
            delivered_count = len(_delivered(scene))
            progress.update(bars["acknowledged"], completed=len(acknowledged))
            progress.update(bars["delivered"], completed=delivered_count)
            return delivered_count

        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(_send_all(scene, acknowledged))
                while refresh() < REQUEST_COUNT:  # noqa: ASYNC110 - the pace at which the bars are drawn
                    await asyncio.sleep(REFRESH_INTERVAL_S)
        except TimeoutError:
            pass  # the sums show what is missing
    return await _sums(scene, acknowledged, time.monotonic() - began)


async def _send_all(scene: Scene, acknowledged: list[str]) -> None:
    mark = secrets.token_hex(4)
    numbers = iter(range(REQUEST_COUNT))
    callback_url = scene.receiver.url(CALLBACK_PATH)

    async def send() -> None:
        for number in numbers:
            body = {"stationId": f"station-{mark}-{number}", "driverId": f"driver-{mark}-{number}"}
            answer = await scene.gateway.post(
                "/api/charging-session-requests", json={**body, "callbackUrl": callback_url}
            )
            if answer.status_code != httpx.codes.OK:
                raise DemoFailed(f"request {number} was answered {answer.status_code}: {answer.text}")
            acknowledged.append(answer.headers["location"].rpartition("/")[2])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONCURRENCY):
            tasks.create_task(send())


async def _sums(scene: Scene, acknowledged: list[str], elapsed_s: float) -> LoadSums:
    rows = Counter(row["requestId"] for row in await scene.database.fetch(APPLIED, acknowledged))
    return LoadSums(
        sent_count=REQUEST_COUNT,
        acknowledged=frozenset(acknowledged),
        applied=frozenset(rows),
        delivered=_delivered(scene),
        row_count=rows.total(),
        elapsed_s=elapsed_s,
    )


def _delivered(scene: Scene) -> frozenset[str]:
    return frozenset(callback.data["requestId"] for callback in scene.receiver.callbacks if _counts(callback))


def _counts(callback: Callback) -> bool:
    return (
        callback.path == CALLBACK_PATH
        and callback.verified
        and callback.type == "request.decided"
        and callback.data["decision"] == "allowed"
    )

"""The demo's load: 1,000 requests, counted at each end of the way: acknowledgement, database row, verified callback."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp

from ops import demo_screen as screen
from ops.demo_story import DemoFailed, Scene
from ops.receiver import Callback

REQUEST_COUNT = 1_000
# Enough to keep the gateway's confirms in a pipeline; more only lengthens the queue in this very process.
CONCURRENCY = 32
# On two busy cores the load takes some 5 s.
LOAD_TIMEOUT_S = 120
# The gateway answers 503 within 2 s when it cannot acknowledge; this is beyond any honest answer.
ANSWER_TIMEOUT_S = 10
REFRESH_INTERVAL_S = 0.1
CALLBACK_PATH = "/load"
REQUESTS_PATH = "/api/charging-session-requests"

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


@dataclass
class Delivered:
    """The ids of requests whose callback came and counts. It reads on where it stopped, as callbacks are only added."""

    callbacks: Sequence[Callback]
    request_ids: set[str] = field(default_factory=set)
    read_count: int = 0

    def count(self) -> int:
        """How many there are by now."""
        for callback in self.callbacks[self.read_count :]:
            self.read_count += 1
            if _counts(callback):
                self.request_ids.add(callback.data["requestId"])
        return len(self.request_ids)


async def run_load(scene: Scene) -> LoadSums:
    """Sends the requests and waits for their callbacks, with bars; never longer than `LOAD_TIMEOUT_S`."""
    began = time.monotonic()
    acknowledged: list[str] = []
    delivered = Delivered(scene.receiver.callbacks)
    with screen.new_progress(scene.console) as progress:
        bars = {name: progress.add_task(name, total=REQUEST_COUNT) for name in ("acknowledged", "delivered")}

        def refresh() -> int:
            delivered_count = delivered.count()
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
    elapsed_s = time.monotonic() - began
    return await _sums(scene, acknowledged, frozenset(delivered.request_ids), elapsed_s)


async def _send_all(scene: Scene, acknowledged: list[str]) -> None:
    """Sends with aiohttp: with many connections, httpx takes more of a core than the whole product beside it."""
    mark = secrets.token_hex(4)
    numbers = iter(range(REQUEST_COUNT))
    callback_url = scene.receiver.url(CALLBACK_PATH)

    async def send(client: aiohttp.ClientSession) -> None:
        for number in numbers:
            body = {"stationId": f"station-{mark}-{number}", "driverId": f"driver-{mark}-{number}"}
            acknowledged.append(await _acknowledged(client, {**body, "callbackUrl": callback_url}))

    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    client = aiohttp.ClientSession(str(scene.gateway.base_url), timeout=timeout)
    async with client, asyncio.TaskGroup() as tasks:
        for _ in range(CONCURRENCY):
            tasks.create_task(send(client))


async def _acknowledged(client: aiohttp.ClientSession, body: dict[str, str]) -> str:
    """The request's id, once it is acknowledged."""
    try:
        async with client.post(REQUESTS_PATH, json=body) as answer:
            if answer.status != HTTPStatus.OK:
                raise DemoFailed(f"a request was answered {answer.status}: {await answer.text()}")
            return answer.headers["location"].rpartition("/")[2]
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoFailed(f"the gateway broke off: {error!r}") from error


async def _sums(scene: Scene, acknowledged: list[str], delivered: frozenset[str], elapsed_s: float) -> LoadSums:
    rows = Counter(row["requestId"] for row in await scene.database.fetch(APPLIED, acknowledged))
    return LoadSums(
        sent_count=REQUEST_COUNT,
        acknowledged=frozenset(acknowledged),
        applied=frozenset(rows),
        delivered=delivered,
        row_count=rows.total(),
        elapsed_s=elapsed_s,
    )


def _counts(callback: Callback) -> bool:
    return (
        callback.path == CALLBACK_PATH
        and callback.verified
        and callback.type == "request.decided"
        and callback.data["decision"] == "allowed"
    )

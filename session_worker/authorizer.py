"""Asks the authorization service about pending requests, beside the batches: no batch ever waits for it.

The service has until the request's deadline, which runs from acceptance. Killed anywhere, the request is still pending
in the database: another worker adopts it, or its deadline decides it. Asked twice, it is decided once.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import orjson
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from session_worker import store
from session_worker.apply import Policy
from session_worker.authorize import FAILED, TIMED_OUT, Verdict, http_verdict
from session_worker.breaker import Breaker
from session_worker.overdue import decide_requests
from session_worker.relay import Relay
from session_worker.session import Request
from shared.broker.connection import backoff_s
from shared.failures import log_failure, reason_of
from shared.logs import get_logger
from shared.loops import Turns, endless

log = get_logger(__name__)

VERDICTS = Counter("voltline_authorizations_total", "Verdicts of the authorization service", ["decision", "reason"])

# What a service of this kind takes at once, and what keeps a slow one from piling up.
CONCURRENCY = 50
# Ten seconds of a thousand requests a second; beyond, the deadline decides.
WAITING_MOST = 10_000
ADOPT_MOST = 200
VERDICTS_PER_BATCH = 250
ANSWER_MOST_BYTES = 64 * 1024
# A service that is not reached, is late or breaks five times in a row is down; five seconds give it air.
BREAKER_FAILURES = 5
BREAKER_OPEN_S = 5.0
SERVER_ERROR = 500
# For hanging up on a service that does not let itself be hung up on.
HANG_UP_S = 10.0
# The answer is read as it comes over the wire, so that its limit is one: nothing shall be packed into it.
HEADERS = {"accept-encoding": "identity"}


class Authorizer:
    """A bounded number of questions at once; the verdicts are written in batches."""

    def __init__(
        self, url: str, *, engine: AsyncEngine, relay: Relay, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self._url = url
        self._engine = engine
        self._relay = relay
        self._policy = policy
        self._clock = clock
        self._breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_S)
        self._waiting: asyncio.Queue[Request] = asyncio.Queue(WAITING_MOST)
        self._known: set[UUID] = set()
        self._verdicts: dict[UUID, Verdict] = {}
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        stuck_after_s = policy.timeout.total_seconds() + HANG_UP_S
        self._asking = Turns("asking the authorization service", stuck_after_s=stuck_after_s, may_fail=True)
        self._writing = Turns("writing verdicts")
        self.turns = (self._asking, self._writing)

    def submit(self, pending: Iterable[Request]) -> None:
        """Ask about these as soon as there is room; what does not fit waits for its deadline."""
        for request in pending:
            if request.id not in self._known and not self._waiting.full():
                self._known.add(request.id)
                self._idle.clear()
                self._waiting.put_nowait(request)

    async def adopt(self, now: datetime) -> None:
        """Ask about pending requests that a lost worker must have left: half their time is over."""
        async with self._engine.connect() as tx:
            left = await store.undecided_requests(tx, now, ADOPT_MOST)
        self.submit(request for request in left if now - request.created_at > self._policy.timeout / 2)

    async def run(self) -> None:
        """Ask until cancelled."""
        limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
        # httpx's timeouts are per operation; the deadline of each request is the one that counts.
        async with (
            httpx.AsyncClient(timeout=self._policy.timeout.total_seconds(), limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(CONCURRENCY):
                tasks.create_task(endless("asking", self._ask_one_by_one(client)))
            tasks.create_task(endless("writing verdicts", self._write()))

    async def finish(self) -> None:
        """Wait until what was submitted is decided, as far as its deadlines allow."""
        await self._idle.wait()

    async def _ask_one_by_one(self, client: httpx.AsyncClient) -> None:
        while True:
            request = await self._waiting.get()
            with self._asking.turn():
                verdict = await self._verdict(client, request)
            VERDICTS.labels(str(verdict.decision), verdict.reason or "").inc()
            self._verdicts[request.id] = verdict
            self._arrived.set()

    async def _verdict(self, client: httpx.AsyncClient, request: Request) -> Verdict:
        assert request.deadline_at is not None
        left_s = (request.deadline_at - self._clock()).total_seconds()
        loop = asyncio.get_running_loop()
        if left_s <= 0:
            return TIMED_OUT
        if not self._breaker.lets_through(loop.time()):
            return FAILED
        is_down: bool | None = None  # None: nobody knows
        try:
            async with asyncio.timeout(left_s):
                status, body = await _ask(client, self._url, request)
            # Nonsense about one request says nothing about the next.
            verdict, is_down = http_verdict(status, body), status >= SERVER_ERROR
        except TimeoutError:
            # What had waited here for most of its time says nothing about the service.
            verdict, is_down = TIMED_OUT, left_s > self._policy.timeout.total_seconds() / 2 or None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.warning("authorization_failed", request_id=str(request.id), reason=type(error).__name__)
            verdict, is_down = FAILED, True
        except Exception as error:  # whatever broke, it is no verdict; and the next request may fare better
            log_failure("authorization_broke", error, request_id=str(request.id))
            verdict = FAILED
        self._learn(is_down)
        return verdict

    def _learn(self, is_down: bool | None) -> None:
        if is_down is None:
            self._breaker.abandoned()
        elif is_down:
            self._breaker.failed(asyncio.get_running_loop().time())
        else:
            self._breaker.succeeded()

    async def _write(self) -> None:
        """Write verdicts as they come; through an outage they wait, and their deadlines go on."""
        failures = 0
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            with self._writing.turn():
                failures = 0 if await self._write_some() else failures + 1
            if failures:
                await asyncio.sleep(backoff_s(failures, random.random()))
                self._arrived.set()

    async def _write_some(self) -> bool:
        """Write a batch of verdicts; return whether that went well."""
        batch = dict(list(self._verdicts.items())[:VERDICTS_PER_BATCH])
        try:
            _, staged = await decide_requests(self._engine, batch, now=self._clock(), policy=self._policy)
        except Exception as error:  # the edge of a loop that must never end: the verdicts stay here
            self._writing.fail()
            log.warning("verdicts_wait", verdicts=len(batch), reason=reason_of(error))
            return False
        for request_id in batch:
            del self._verdicts[request_id]
            self._known.discard(request_id)
        if self._verdicts:
            self._arrived.set()
        if not self._known:
            self._idle.set()
        if staged is not None:
            await self._relay.submit(staged)
        return True


async def _ask(client: httpx.AsyncClient, url: str, request: Request) -> tuple[int, Any]:
    """Return the status and the parsed body, None where it is no JSON or too large."""
    command = request.command
    question = {
        "requestId": str(request.id),
        "stationId": command.station_id,
        "driverId": command.driver_id,
        "connectorId": command.connector_id,
    }
    async with client.stream("POST", url, json=question, headers=HEADERS) as answer:
        content = b""
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > ANSWER_MOST_BYTES:
                return answer.status_code, None
    try:
        return answer.status_code, orjson.loads(content)
    except orjson.JSONDecodeError:
        return answer.status_code, None

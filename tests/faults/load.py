"""The load: apps over HTTP and partners on the queue, at a rate, while things break. Every call goes into the ledger.

Three of four callers repeat a call under its key until it is acknowledged; the fourth never does, and so shows ghosts.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from shared.ids import idempotent_id
from tests.faults.ledger import Answer, Entry, Ledger, Word
from tests.faults.partner import Partner
from tests.faults.payment_story import payment

ANONYMOUS = "anonymous"
PROVIDER_EVENT = "payment.provider_event.v1"
# The gateway answers within 2 s whatever the broker does; what takes this long is no answer.
ANSWER_TIMEOUT_S = 8.0
# Beyond this the machine is too slow for the rate: stories are left out rather than piled up.
STORIES_MOST = 400
RETRY_S = 0.3
# A fault meets the whole load; one that lasts needs no more than some, and what comes after it can catch up.
WHOLE_FOR_S = 6.0
EASED_TO = 0.25
# A caller who repeats gives up only when the fault has long ended.
REPEATS_MOST = 200

Send = Callable[[], Awaitable[Answer]]
# Part of each story; a request is one command, the other two are chains.
WEIGHTS = {"request": 5, "session": 3, "partner": 2}


class Load:
    """One row's callers. `gateways` gives the gateways in rotation, `callback_url` is where callbacks go."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        gateways: Callable[[], list[str]],
        partner: Partner,
        callback_url: str,
        rate: float,
        chance: random.Random,
        weights: Mapping[str, int] = WEIGHTS,
        whole_for_s: float = WHOLE_FOR_S,
    ) -> None:
        self.ledger = ledger
        self.left_out = 0
        self._gateways = gateways
        self._partner = partner
        self.callback_url = callback_url
        self._rate = rate
        self._whole_for_s = whole_for_s
        self.chance = chance
        self._weights = weights
        self._numbers = count(1)
        self._stopped = asyncio.Event()
        self._stories: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Begin stories at the rate until stopped; return when the last has ended."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._http:
            began = due = time.monotonic()
            while not self._stopped.is_set():
                # By the clock, not by pauses: on a busy machine several are due at once.
                while due <= time.monotonic():
                    self._begin()
                    due += 1 / (self._rate * (1 if due - began < self._whole_for_s else EASED_TO))
                try:
                    async with asyncio.timeout(due - time.monotonic()):
                        await self._stopped.wait()
                except TimeoutError:
                    pass
            if self._stories:
                await asyncio.wait(self._stories)

    def stop(self) -> None:
        """Begin no more stories."""
        self._stopped.set()

    def _begin(self) -> None:
        if len(self._stories) >= STORIES_MOST:
            self.left_out += 1
            return
        kind = self.chance.choices(list(self._weights), list(self._weights.values()))[0]
        repeats = self.chance.random() < 0.75
        stories: dict[str, Callable[[str, bool], Coroutine[Any, Any, None]]] = {
            "request": self._request, "session": self._session, "partner": self._on_the_queue,
            "payment": partial(payment, self),
        }  # fmt: skip
        task = asyncio.create_task(stories[kind](f"{self.ledger.name}-{next(self._numbers)}", repeats))
        self._stories.add(task)
        task.add_done_callback(self._stories.discard)

    async def _request(self, name: str, repeats: bool) -> None:
        key = f"{name}-request"
        message_id = idempotent_id(ANONYMOUS, key)
        body = {"stationId": f"S-{name}", "driverId": f"D-{name}", "callbackUrl": self.callback_url}
        await self.post("/api/charging-session-requests", "session.request.v1", key, message_id, body, repeats)

    async def _session(self, name: str, repeats: bool) -> None:
        subject = idempotent_id(ANONYMOUS, f"{name}-start")
        body = {"chargerId": f"C-{name}", "callbackUrl": self.callback_url}
        if not await self.post("/api/v1/session/start", "session.start.v1", f"{name}-start", subject, body, repeats):
            return
        meter = {"sessionId": str(subject), "meterWh": 1200}
        await self.post("/api/v1/session/meter-values", "session.meter.v1", f"{name}-meter", subject, meter, repeats)
        end = "stop" if self.chance.random() < 0.8 else "cancel"
        body = {"sessionId": str(subject)}
        await self.post(f"/api/v1/session/{end}", f"session.{end}.v1", f"{name}-{end}", subject, body, repeats)

    async def _on_the_queue(self, name: str, repeats: bool) -> None:
        subject = uuid4()
        body = {"chargerId": f"P-{name}", "callbackUrl": self.callback_url}
        if await self.publish("session.start.v1", f"{name}-start", subject, subject, body, repeats):
            stop = {"sessionId": str(subject)}
            await self.publish("session.stop.v1", f"{name}-stop", uuid4(), subject, stop, repeats)

    async def post(self, path: str, type: str, key: str, subject: UUID, body: dict[str, Any], repeats: bool) -> bool:
        """Call the gateway; return whether it acknowledged."""
        message_id = idempotent_id(ANONYMOUS, key)
        entry = self.ledger.note(key=key, type=type, message_id=message_id, subject=subject, body=body)
        return await self._until_acknowledged(entry, lambda: self._call(path, key, body), repeats)

    async def press(self, key: str, message_id: UUID, subject: UUID, event: dict[str, Any]) -> bool:
        """Bring a provider's event; return whether it was taken."""
        entry = self.ledger.note(key=key, type=PROVIDER_EVENT, message_id=message_id, subject=subject, body=event)
        path = "/api/v1/payment/webhooks/sandbox"
        return await self._until_acknowledged(entry, lambda: self._call(path, key, event), repeats=True)

    async def read(self, path: str) -> dict[str, Any]:
        """Get what there is; nothing where the answer is no 200."""
        gateways = self._gateways()
        if not gateways:
            return {}
        try:
            async with self._http.get(self.chance.choice(gateways) + path) as response:
                found: dict[str, Any] = await response.json(content_type=None)
                return found if response.status == 200 else {}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return {}

    async def publish(
        self, type: str, key: str, message_id: UUID, subject: UUID, body: dict[str, Any], repeats: bool
    ) -> bool:
        """Publish as a partner; return whether the broker confirmed."""
        entry = self.ledger.note(key=key, type=type, message_id=message_id, subject=subject, body=body)
        return await self._until_acknowledged(entry, lambda: self._partner.publish(type, message_id, body), repeats)

    async def _until_acknowledged(self, entry: Entry, send: Send, repeats: bool) -> bool:
        for _ in range(REPEATS_MOST if repeats else 1):
            answer = await send()
            entry.answers.append(answer)
            if answer.word is Word.ACKNOWLEDGED:
                return True
            await asyncio.sleep(RETRY_S * (1 + self.chance.random()))
        return False

    async def _call(self, path: str, key: str, body: dict[str, Any]) -> Answer:
        gateways = self._gateways()
        if not gateways:
            return Answer(Word.NO, "no gateway")
        url = self.chance.choice(gateways) + path
        try:
            async with self._http.post(url, json=body, headers={"Idempotency-Key": key}) as response:
                return await _answer(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(Word.UNKNOWN, f"no answer ({type(error).__name__})")


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    if response.status < 300:
        await response.read()
        return Answer(Word.ACKNOWLEDGED, str(response.status))
    problem = await response.json(content_type=None)
    slug = str(problem.get("type", "")).rpartition(":")[2]
    word = Word.UNKNOWN if slug == "outcome-unknown" or response.status == 500 else Word.NO
    return Answer(word, f"{response.status} {slug}")

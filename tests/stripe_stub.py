"""Stripe as far as payments need it, on loopback: it keeps Stripe's documented rules and knows nothing of the adapter.

A test acts as the driver and the banks (`pay`, `settle`, `expire`, `fail_refund`) and as the network (`down`,
`hold_next`, `answer_next`, `delay_s`), and reads afterwards what was really made. `events` are what Stripe would send.
"""

import asyncio
import copy
import hashlib
import hmac
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Self

from aiohttp import web

API_KEY = "sk_test_stub"
WEBHOOK_SECRET = "whsec_stub"
SHORTEST_S, LONGEST_S = 30 * 60, 24 * 3600
MINIMUM = {"eur": 50, "usd": 50, "gbp": 30, "jpy": 50, "huf": 17500}
SESSION_PARAMETERS = {
    "mode", "client_reference_id", "metadata", "payment_intent_data", "line_items", "expires_at", "success_url",
    "cancel_url", "expand",
}  # fmt: skip
REFUND_PARAMETERS = {"payment_intent", "amount", "metadata", "reason", "expand"}

Object = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One request, as it came."""

    method: str
    path: str
    key: str | None
    parameters: Mapping[str, Any]

    def fits(self, pattern: str) -> bool:
        return fnmatch(f"{self.method} {self.path}", pattern)


@dataclass
class Hold:
    """A request that waits. `arrived` is set once it does; `release` lets it go on, `drop` cuts its connection."""

    pattern: str
    before: bool
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    is_dropped: bool = False

    def release(self) -> None:
        self.let_go.set()

    def drop(self) -> None:
        self.is_dropped = True
        self.let_go.set()


class Refused(Exception):
    """An error of Stripe's. `kept`: the request was carried out as far as that, so that its key keeps the answer."""

    def __init__(self, status: int, code: str | None = None, *, kept: bool = True, **rest: str) -> None:
        super().__init__(code)
        self.status, self.kept = status, kept
        rest |= {} if code is None else {"code": code}
        self.body = {"error": {"type": "invalid_request_error", "message": "Nobody reads this.", **rest}}


class Dropped(Exception):
    """The connection is cut."""


class StripeStub:
    """A server's lifetime. `now` may be replaced; sessions expire by it."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.sessions: dict[str, Object] = {}
        self.intents: dict[str, Object] = {}
        self.refunds: dict[str, Object] = {}
        self.now: Callable[[], float] = time.time
        self.delay_s = 0.0
        self.makes_refunds = "succeeded"  # or pending, requires_action
        self._events: list[Object] = []
        self._intent_metadata: dict[str, Object] = {}  # by session, whose driver has not paid yet
        # By idempotency key: path and parameters, and the answer; a request without one is at work.
        self._keys: dict[str, tuple[str, tuple[int, Any] | None]] = {}
        self._holds: list[Hold] = []
        self._canned: list[tuple[str, web.Response]] = []
        self._is_down = False
        self._numbers = itertools.count(secrets.randbits(48))  # unique over all stubs, as ids over all accounts
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for hold in self._holds:
            hold.drop()
        if self._runner is not None:
            await self._runner.cleanup()

    def pay(self, session_id: str, *, delayed: bool = False) -> bool:
        """The driver pays; False where the session takes no payment any more."""
        session = self._session(session_id)
        if session["status"] != "open":
            return False
        intent = self._new("pi", "payment_intent", amount=session["amount_total"], currency=session["currency"])
        intent |= {"metadata": self._intent_metadata[session_id], "status": "processing", "amount_received": 0}
        self.intents[intent["id"]] = intent
        session |= {"status": "complete", "payment_intent": intent["id"], "url": None}
        if not delayed:
            _succeed(session, intent)
        self._tell("checkout.session.completed", session)
        self._tell(f"payment_intent.{'processing' if delayed else 'succeeded'}", intent)
        return True

    def settle(self, session_id: str, ok: bool) -> None:
        """A slow payment comes, or does not."""
        session = self.sessions[session_id]
        intent = self.intents[session["payment_intent"]]
        assert intent["status"] == "processing"
        if ok:
            _succeed(session, intent)
        else:
            intent["status"] = "requires_payment_method"
        self._tell(f"checkout.session.async_payment_{'succeeded' if ok else 'failed'}", session)
        self._tell(f"payment_intent.{'succeeded' if ok else 'payment_failed'}", intent)

    def expire(self, session_id: str) -> None:
        """The session's time is over."""
        session = self.sessions[session_id]
        assert session["status"] == "open"
        session |= {"status": "expired", "url": None}
        self._tell("checkout.session.expired", session)

    def fail_refund(self, refund_id: str, reason: str | None = "lost_or_stolen_card") -> None:
        """A bank sends a refund back, even one that succeeded."""
        self.end_refund(refund_id, "failed", reason)
        self._tell("refund.failed", self.refunds[refund_id])

    def end_refund(self, refund_id: str, status: str, reason: str | None = None) -> None:
        """A pending refund has succeeded, failed, or is canceled."""
        self.refunds[refund_id] |= {"status": status, "failure_reason": reason}
        for kind in ("refund.updated", "charge.refund.updated"):
            self._tell(kind, self.refunds[refund_id])

    def charged(self, intent_id: str) -> int:
        return int(self.intents[intent_id]["amount_received"])

    def refunded(self, intent_id: str) -> int:
        """What went back of a payment, or is about to."""
        return sum(
            refund["amount"]
            for refund in self.refunds.values()
            if refund["payment_intent"] == intent_id and refund["status"] not in ("failed", "canceled")
        )

    def events(self) -> list[Object]:
        """What Stripe would have sent so far, each with its object as it was then."""
        return copy.deepcopy(self._events)

    def signed(self, event: Object, *, at: float | None = None) -> tuple[bytes, str]:
        """Return an event's body and its header Stripe-Signature."""
        body, stamp = json.dumps(event).encode(), int(time.time() if at is None else at)
        mac = hmac.new(WEBHOOK_SECRET.encode(), b"%d.%s" % (stamp, body), hashlib.sha256)
        return body, f"t={stamp},v1={mac.hexdigest()}"

    def down(self) -> None:
        """Cut every connection until `up`."""
        self._is_down = True

    def up(self) -> None:
        self._is_down = False

    def hold_next(self, pattern: str, *, before: bool = True) -> Hold:
        """Hold the next `METHOD /path` (wildcards: fnmatch's) before it is carried out, or else before its answer."""
        hold = Hold(pattern, before)
        self._holds.append(hold)
        return hold

    def answer_next(self, pattern: str, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next `METHOD /path` so, and carry nothing out; a body of bytes goes out as it is."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._canned.append((pattern, web.Response(status=status, body=raw, headers=headers)))

    async def _take(self, request: web.Request) -> web.StreamResponse:
        raw = request.query if request.method == "GET" else await request.post()
        seen = Seen(request.method, request.path, request.headers.get("Idempotency-Key"), _nested(raw))
        headers = {"Request-Id": f"req_{next(self._numbers)}"}
        try:
            await self._reached(seen, request.headers.get("Authorization"))
            for canned in self._canned:
                if seen.fits(canned[0]):
                    self._canned.remove(canned)
                    return canned[1]
            status, body, is_replay = await self._keyed(seen)
            await self._held(seen, before=False)
        except Refused as error:
            status, body, is_replay = error.status, error.body, False
        except Dropped:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers |= {"Idempotent-Replayed": "true"} if is_replay else {}
        return web.json_response(body, status=status, headers=headers)

    async def _reached(self, seen: Seen, authorization: str | None) -> None:
        if self._is_down:
            raise Dropped
        self.requests.append(seen)
        await asyncio.sleep(self.delay_s)
        if authorization != f"Bearer {API_KEY}":
            raise Refused(401)

    async def _held(self, seen: Seen, *, before: bool) -> None:
        for hold in self._holds:
            if hold.before == before and not hold.arrived.is_set() and seen.fits(hold.pattern):
                hold.arrived.set()
                await hold.let_go.wait()
                if hold.is_dropped:
                    raise Dropped

    async def _keyed(self, seen: Seen) -> tuple[int, Any, bool]:
        """Carry a request out once per key: https://docs.stripe.com/api/idempotent_requests."""
        if seen.key is None or seen.method != "POST":
            await self._held(seen, before=True)
            return 200, self._carry_out(seen), False
        fingerprint = json.dumps([seen.path, seen.parameters], sort_keys=True)
        if seen.key in self._keys:
            return *_replay(*self._keys[seen.key], fingerprint), True
        self._keys[seen.key] = fingerprint, None
        try:
            await self._held(seen, before=True)
            answer: tuple[int, Any] = 200, self._carry_out(seen)
        except (Dropped, Refused, asyncio.CancelledError) as error:
            del self._keys[seen.key]
            if not isinstance(error, Refused) or not error.kept:
                raise
            answer = error.status, error.body
        self._keys[seen.key] = fingerprint, answer
        return *answer, False

    def _carry_out(self, seen: Seen) -> Object:
        match seen.method, seen.path.strip("/").split("/"):
            case "POST", ["v1", "checkout", "sessions"]:
                found = self._create_session(seen.parameters)
            case "GET", ["v1", "checkout", "sessions"]:
                return _page(map(self._session, list(self.sessions)), seen.parameters)
            case "GET", ["v1", "checkout", "sessions", session_id]:
                found = self._session(session_id)
            case "POST", ["v1", "checkout", "sessions", session_id, "expire"]:
                found = self._session(session_id)
                if found["status"] != "open":
                    raise Refused(400)
                self.expire(session_id)
            case "POST", ["v1", "refunds"]:
                found = self._create_refund(seen.parameters)
            case "GET", ["v1", "refunds"]:
                return _page(self.refunds.values(), seen.parameters)
            case "GET", ["v1", "refunds", refund_id]:
                found = _known(self.refunds, refund_id)
            case _:
                raise Refused(404)
        return self._shown(found, seen.parameters)

    def _create_session(self, parameters: Mapping[str, Any]) -> Object:
        _check_parameters(parameters, SESSION_PARAMETERS, {"mode", "line_items", "success_url"})
        line = parameters["line_items"]["0"]
        price, expires_at = line["price_data"], _integer(parameters, "expires_at")
        amount = _integer(price, "unit_amount") * _integer(line, "quantity")
        _check_amount(amount, price["currency"])
        if not SHORTEST_S <= expires_at - self.now() <= LONGEST_S:
            raise Refused(400, param="expires_at", kept=False)
        if not parameters["success_url"].startswith(("http://", "https://")):
            raise Refused(400, "url_invalid", param="success_url", kept=False)
        session = self._new("cs_test", "checkout.session", amount_total=amount, currency=price["currency"])
        session |= {name: parameters.get(name) for name in ("client_reference_id", "mode", "success_url", "cancel_url")}
        session |= {"metadata": parameters.get("metadata", {}), "expires_at": expires_at, "status": "open"}
        session |= {"payment_status": "unpaid", "payment_intent": None, "url": f"{self.url}/pay/{session['id']}"}
        self._intent_metadata[session["id"]] = parameters.get("payment_intent_data", {}).get("metadata", {})
        self.sessions[session["id"]] = session
        return session

    def _create_refund(self, parameters: Mapping[str, Any]) -> Object:
        _check_parameters(parameters, REFUND_PARAMETERS, {"payment_intent"})
        intent = _known(self.intents, parameters["payment_intent"])
        left = self.charged(intent["id"]) - self.refunded(intent["id"])
        if intent["status"] != "succeeded":
            raise Refused(400, "payment_intent_unexpected_state", param="payment_intent")
        if left == 0:
            raise Refused(400, "charge_already_refunded")
        amount = _integer(parameters, "amount") if "amount" in parameters else left
        if amount > left:
            raise Refused(400, param="amount")
        refund = self._new("re", "refund", amount=amount, currency=intent["currency"], payment_intent=intent["id"])
        refund |= {"metadata": parameters.get("metadata", {}), "status": self.makes_refunds, "failure_reason": None}
        self.refunds[refund["id"]] = refund
        self._tell("refund.created", refund)
        charge = self._new("ch", "charge", payment_intent=intent["id"], metadata=intent["metadata"])
        self._tell("charge.refunded", charge)
        return refund

    def _session(self, session_id: str) -> Object:
        session = _known(self.sessions, session_id)
        if session["status"] == "open" and session["expires_at"] <= self.now():
            self.expire(session_id)
        return session

    def _shown(self, found: Object, parameters: Mapping[str, Any]) -> Object:
        shown = dict(found)
        if "payment_intent" in parameters.get("expand", {}).values() and shown["payment_intent"]:
            shown["payment_intent"] = self.intents[shown["payment_intent"]]
        return copy.deepcopy(shown)

    def _new(self, prefix: str, kind: str, **values: Any) -> Object:
        return {"id": f"{prefix}_{next(self._numbers)}", "object": kind, "created": int(self.now()), **values}

    def _tell(self, kind: str, about: Object) -> None:
        event = self._new("evt", "event", type=kind, livemode=False, api_version="2026-10-28.endive")
        self._events.append({**event, "data": {"object": self._shown(about, {})}})


def _succeed(session: Object, intent: Object) -> None:
    session["payment_status"] = "paid"
    intent |= {"status": "succeeded", "amount_received": intent["amount"]}


def _replay(first: str, answer: tuple[int, Any] | None, fingerprint: str) -> tuple[int, Any]:
    if first != fingerprint:
        raise Refused(400, type="idempotency_error")
    if answer is None:
        raise Refused(409, "idempotency_key_in_use", type="idempotency_error")
    return answer


def _page(objects: Iterable[Object], parameters: Mapping[str, Any]) -> Object:
    """A page of a list, newest first, after the object that `starting_after` names."""
    since, of_payment = int(parameters.get("created", {}).get("gte", 0)), parameters.get("payment_intent")
    newest = [o for o in objects if o["created"] >= since and of_payment in (None, o["payment_intent"])][::-1]
    if last := parameters.get("starting_after"):
        newest = newest[[found["id"] for found in newest].index(last) + 1 :]
    limit = int(parameters.get("limit", 10))
    assert 1 <= limit <= 100
    return {"object": "list", "url": "/v1/any", "has_more": len(newest) > limit, "data": newest[:limit]}


def _known(objects: Mapping[str, Object], name: str) -> Object:
    if name not in objects:
        raise Refused(404, "resource_missing", param="id")
    return objects[name]


def _check_parameters(parameters: Mapping[str, Any], known: set[str], required: set[str]) -> None:
    for name in parameters.keys() - known:
        raise Refused(400, "parameter_unknown", param=name, kept=False)
    for name in required - parameters.keys():
        raise Refused(400, "parameter_missing", param=name, kept=False)


def _check_amount(amount: int, currency: str) -> None:
    if amount < MINIMUM.get(currency, 1):
        raise Refused(400, "amount_too_small")
    if amount > 99_999_999:
        raise Refused(400, "amount_too_large")
    if currency in ("isk", "ugx") and amount % 100:
        raise Refused(400, "invalid_charge_amount_no_decimal_compatible")


def _integer(parameters: Mapping[str, Any], name: str) -> int:
    value = str(parameters.get(name))
    if not value.isdecimal() or int(value) < 1:
        raise Refused(400, "parameter_invalid_integer", param=name, kept=False)
    return int(value)


def _nested(raw: Mapping[str, Any]) -> Object:
    """Form parameters `a[b][0]=c` as {"a": {"b": {"0": "c"}}}."""
    found: Object = {}
    for name, value in raw.items():
        *path, last = name.replace("]", "").split("[")
        inner = found
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return found

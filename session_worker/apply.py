"""Applies a batch of commands in one transaction: inbox, sessions, requests, parked commands, outbox, or nothing.

Killed before the commit, nothing happened and the messages come again. Killed after it, the messages come again and
the inbox knows them; their events wait in the outbox.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker import store
from session_worker.authorize import ALLOWED, Authorization, Verdict
from session_worker.completion import Adjustment
from session_worker.decide import Decided, Facts, Resolution, decide, parked_until, refuse
from session_worker.directory import Directory, read_directory, write_directory
from session_worker.payments.decide import decide_payment
from session_worker.payments.payment import Payment
from session_worker.payments.provider import Notice
from session_worker.payments.rules import Terms
from session_worker.payments.store import find_payments, save_payments
from session_worker.session import Claim, Outcome, Reason, Received, Request, Session
from shared import crash_points
from shared.commands import (
    AnyCommand,
    DirectoryCommand,
    PaymentCommand,
    ProviderEvent,
    RecordMeter,
    RequestSession,
    StartSession,
)
from shared.database import lock_key
from shared.events import Event, outbox_entry
from shared.ids import conflict_id, uuid7
from shared.meter import Sample
from shared.retention.age import is_forgotten


@dataclass(frozen=True, slots=True)
class Staged:
    """The events of one committed transaction, under the outbox row that keeps them until they are published."""

    outbox_id: UUID
    entries: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests are judged, and for how long they may wait for it; who collects what sessions cost, if anybody."""

    authorization: Authorization = Authorization.OPEN
    timeout: timedelta = timedelta(seconds=10)
    terms: Terms | None = None
    # Of a cost that somebody names for a session without a tariff.
    default_currency: str = "EUR"
    # For so long the inbox knows what was handled; 0 is for ever.
    remembered_days: int = 0


@dataclass(slots=True)
class State:
    """What the batch has read and decided so far; only here is anything mutable."""

    now: datetime
    policy: Policy
    seen: dict[UUID, bytes] = field(default_factory=dict)
    sessions: dict[UUID, Session] = field(default_factory=dict)
    requests: dict[UUID, Request] = field(default_factory=dict)
    holders: dict[Claim, UUID] = field(default_factory=dict)
    parked: dict[UUID, list[Received]] = field(default_factory=dict)
    directory: Directory = field(default_factory=Directory)
    samples: dict[UUID, list[Sample]] = field(default_factory=dict)
    payments: dict[UUID, Payment] = field(default_factory=dict)
    notices: Mapping[UUID, Notice] = field(default_factory=dict)
    changed: dict[UUID, Session] = field(default_factory=dict)
    taken_requests: dict[UUID, Request] = field(default_factory=dict)
    new_samples: list[tuple[UUID, Sample]] = field(default_factory=list)
    adjustments: list[Adjustment] = field(default_factory=list)
    changed_payments: dict[UUID, Payment] = field(default_factory=dict)
    handled: list[tuple[Received, Resolution]] = field(default_factory=list)
    newly_parked: list[tuple[Received, datetime]] = field(default_factory=list)
    unparked: list[Resolution] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


async def apply(
    engine: AsyncEngine,
    batch: Sequence[Received],
    *,
    clock: Callable[[], datetime],
    policy: Policy,
    published: Sequence[UUID],
    notices: Mapping[UUID, Notice] | None = None,
) -> tuple[State, Staged | None]:
    """Decide the batch in order and commit it. `published` are outbox rows to forget on the way.

    `notices` says, by message, what providers' events are about.
    """
    async with engine.begin() as tx:
        await store.lock(tx, lock_keys(batch))
        # Not before: whoever waited for a lock writes no times that are over by then.
        state = await _read(tx, batch, clock(), policy)
        state.notices = notices or {}
        for received in batch:
            handle(state, received)
        staged = await write(tx, state)
        await store.delete_outbox(tx, published)
        crash_points.reach("session_worker.before_commit", (received.message_id for received in batch))
    return state, staged


def lock_keys(batch: Iterable[Received]) -> set[int]:
    """Return the locks of all sessions, claims and operators' rows that the batch touches."""
    keys = set()
    for received in batch:
        keys.add(lock_key(str(received.session_id)))
        if received.claim is not None:
            keys.add(lock_key(*received.claim))
    return keys


async def _read(tx: AsyncConnection, batch: Sequence[Received], now: datetime, policy: Policy) -> State:
    message_ids = {received.message_id for received in batch}
    message_ids |= {conflict_id(received.message_id, received.body_hash) for received in batch}
    session_ids = {received.session_id for received in batch}
    starting = [received for received in batch if isinstance(received.command, StartSession | RequestSession)]
    sessions = await store.find_sessions(tx, session_ids)
    return State(
        now=now,
        policy=policy,
        seen=await store.seen(tx, message_ids),
        sessions=sessions,
        requests=await store.find_requests(tx, session_ids - sessions.keys()),
        holders=await store.find_holders(tx, {received.claim for received in starting if received.claim is not None}),
        parked=await store.find_parked(tx, {received.session_id for received in starting}),
        directory=await _read_directory(tx, [received.command for received in starting], policy),
        samples=await store.find_samples(tx, _out_of_order(batch, sessions)),
        payments=await find_payments(
            tx, {received.session_id for received in batch if isinstance(received.command, PaymentCommand)}
        ),
    )


async def _read_directory(tx: AsyncConnection, starting: Iterable[AnyCommand], policy: Policy) -> Directory:
    requests = [command for command in starting if isinstance(command, RequestSession)]
    asked = requests if policy.authorization is Authorization.ACL else []
    return await read_directory(
        tx,
        drivers={command.driver_id for command in asked},
        stations={command.station_id for command in asked},
        chargers={charger_of(command) for command in starting},
    )


def _out_of_order(batch: Iterable[Received], sessions: Mapping[UUID, Session]) -> set[UUID]:
    """Return the sessions whose meter values do not come in the order of their times: these are folded anew."""
    last: dict[UUID, datetime | None] = {}
    found = set()
    for received in batch:
        if isinstance(received.command, RecordMeter):
            session = sessions.get(received.session_id)
            before = last.get(received.session_id, session.meter.last_at if session and session.meter else None)
            at = received.command.measured_at or received.accepted_at
            if before is not None and at <= before:
                found.add(received.session_id)
            last[received.session_id] = at if before is None else max(before, at)
    return found


def handle(state: State, received: Received) -> None:
    """Decide one command unless it was handled before; the same id with another body is refused, once."""
    known = state.seen.get(received.message_id)
    if known == received.body_hash:
        return
    session = state.sessions.get(received.session_id)
    if known is None:
        _record(state, received, received.message_id, _decide(state, session, received))
        return
    conflict = conflict_id(received.message_id, received.body_hash)
    if conflict not in state.seen:
        facts = Facts(now=state.now, request=state.requests.get(received.session_id))
        _record(state, received, conflict, refuse(session, received, Reason.IDEMPOTENCY_CONFLICT, facts, conflict))


def _decide(state: State, session: Session | None, received: Received) -> Decided:
    # A provider's event only says where to look, however old it is.
    is_harmless = isinstance(received.command, ProviderEvent)
    if not is_harmless and is_forgotten(received.minted_at, state.now, state.policy.remembered_days):
        facts = Facts(now=state.now, request=state.requests.get(received.session_id))
        return refuse(session, received, Reason.TOO_OLD, facts)
    if not isinstance(received.command, DirectoryCommand):
        facts = facts_for(state, received.command, received.session_id, received.claim)
        if isinstance(received.command, PaymentCommand):
            return decide_payment(session, received, replace(facts, notice=state.notices.get(received.message_id)))
        return decide(session, received, facts)
    if not received.is_operator:
        return refuse(None, received, Reason.NOT_PRIVILEGED, Facts(now=state.now))
    state.directory.change(received.command)
    return Decided(outcome=Outcome.APPLIED)


def facts_for(state: State, command: AnyCommand, session_id: UUID, claim: Claim | None) -> Facts:
    """Return what the batch knows that this decision needs."""
    is_start = isinstance(command, StartSession | RequestSession)
    return Facts(
        now=state.now,
        claim_is_held=claim in state.holders,
        request=state.requests.get(session_id),
        parked=tuple(sorted(state.parked.get(session_id, ()), key=_accepted_at)) if is_start else (),
        verdict=_verdict(state, command) if isinstance(command, RequestSession) else None,
        authorization_timeout=state.policy.timeout,
        tariff=state.directory.tariff_for(charger_of(command)) if is_start else None,
        samples=tuple(state.samples.get(session_id, ())),
        terms=state.policy.terms,
        default_currency=state.policy.default_currency,
        payment=state.payments.get(session_id),
    )


def _accepted_at(received: Received) -> datetime:
    return received.accepted_at


def _verdict(state: State, command: RequestSession) -> Verdict | None:
    match state.policy.authorization:
        case Authorization.OPEN:
            return ALLOWED
        case Authorization.ACL:
            return state.directory.verdict(command.driver_id, command.station_id, state.now)
        case Authorization.HTTP:
            return None


def charger_of(command: AnyCommand) -> str:
    """Return the charger that a start is on: a request's is its station."""
    match command:
        case StartSession():
            return command.charger_id
        case RequestSession():
            return command.station_id
    raise AssertionError(command)


def _record(state: State, received: Received, inbox_id: UUID, decided: Decided) -> None:
    """Note the outcome of a command, once, and carry its decision into the state."""
    state.seen[inbox_id] = received.body_hash
    state.handled.append((received, Resolution(inbox_id, decided.outcome, decided.reason)))
    if decided.outcome is Outcome.PARKED and decided.request is None and decided.payment is None:
        state.newly_parked.append((received, parked_until(received, state.now)))
        state.parked.setdefault(received.session_id, []).append(received)
    carry(state, received.session_id, decided)


def carry(state: State, session_id: UUID, decided: Decided) -> None:
    """Carry a decision into the state, so that the rest of the batch sees it."""
    state.events += decided.events
    state.unparked += decided.unparked
    if decided.unparked:
        state.parked.pop(session_id, None)
    if decided.request is not None:
        state.requests[decided.request.id] = state.taken_requests[decided.request.id] = decided.request
    for sample in decided.samples:
        state.new_samples.append((session_id, sample))
        state.samples.setdefault(session_id, []).append(sample)
    state.adjustments += decided.adjustments
    if decided.payment is not None:
        state.payments[session_id] = state.changed_payments[session_id] = decided.payment
    if decided.session is not None:
        _replace(state, decided.session)


def _replace(state: State, session: Session) -> None:
    before = state.sessions.get(session.id)
    if before is not None and before.claim is not None and session.claim is None:
        state.holders.pop(before.claim, None)
    if session.claim is not None:
        state.holders[session.claim] = session.id
    state.sessions[session.id] = state.changed[session.id] = session


async def write(tx: AsyncConnection, state: State) -> Staged | None:
    """Write all that was decided; the events go into one outbox row."""
    await write_directory(tx, state.directory.changed, state.now)
    await store.save_sessions(tx, state.changed.values())
    await store.save_requests(tx, list(state.taken_requests.values()))
    await save_payments(tx, state.changed_payments.values())
    await store.save_samples(tx, state.new_samples)
    await store.save_adjustments(tx, state.adjustments, state.now)
    await store.save_inbox(tx, state.handled, state.now)
    await store.save_parked(tx, state.newly_parked)
    await store.unpark(tx, state.unparked)
    if not state.events:
        return None
    staged = Staged(uuid7(state.now), [outbox_entry(event) for event in state.events])
    await store.save_outbox(tx, staged.outbox_id, orjson.dumps(staged.entries).decode(), state.now)
    return staged

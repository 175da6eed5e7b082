"""Applies a batch of commands in one transaction: inbox, sessions, requests, parked commands, outbox, or nothing.

Killed before the commit, nothing happened and the messages come again. Killed after it, the messages come again and
the inbox knows them; their events wait in the outbox.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker import store
from session_worker.decide import PARK_FOR, Decided, Facts, Resolution, decide, refuse
from session_worker.session import Claim, Outcome, Reason, Received, Request, Session
from shared.commands import RequestSession, StartSession
from shared.events import Event, outbox_entry
from shared.ids import conflict_id, uuid7


@dataclass(frozen=True, slots=True)
class Staged:
    """The events of one committed transaction, under the outbox row that keeps them until they are published."""

    outbox_id: UUID
    entries: Sequence[dict[str, Any]]


@dataclass(slots=True)
class State:
    """What the batch has read and decided so far; only here is anything mutable."""

    now: datetime
    seen: dict[UUID, bytes]
    sessions: dict[UUID, Session]
    requests: set[UUID]
    holders: dict[Claim, UUID]
    parked: dict[UUID, list[Received]]
    changed: dict[UUID, Session] = field(default_factory=dict)
    decided_requests: list[Request] = field(default_factory=list)
    handled: list[tuple[Received, Resolution]] = field(default_factory=list)
    newly_parked: list[tuple[Received, datetime]] = field(default_factory=list)
    unparked: list[Resolution] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


async def apply(
    engine: AsyncEngine, batch: Sequence[Received], *, now: datetime, published: Sequence[UUID]
) -> tuple[State, Staged | None]:
    """Decide the batch in order and commit it. `published` are outbox rows to forget on the way."""
    async with engine.begin() as tx:
        await store.lock(tx, lock_keys(batch))
        state = await _read(tx, batch, now)
        for received in batch:
            handle(state, received)
        staged = await write(tx, state)
        await store.delete_outbox(tx, published)
    return state, staged


async def refuse_expired(engine: AsyncEngine, *, now: datetime, most: int) -> tuple[int, Staged | None]:
    """Refuse parked commands whose session never came; return how many."""
    async with engine.begin() as tx:
        expired = await store.expired_parked(tx, now, most)
        if not expired:
            return 0, None
        # Under the sessions' locks: a start at this moment either took them before or finds them gone.
        await store.lock(tx, (store.lock_key(str(session_id)) for session_id in expired.values()))
        state = State(now=now, seen={}, sessions={}, requests=set(), holders={}, parked={})
        for received in await store.take_parked(tx, expired):
            refused = refuse(None, received, Reason.UNKNOWN_SESSION, now)
            state.events += refused.events
            state.unparked.append(Resolution(received.message_id, refused.outcome, refused.reason))
        return len(state.unparked), await write(tx, state)


def lock_keys(batch: Iterable[Received]) -> set[int]:
    """Return the locks of all sessions, claims and messages that the batch touches."""
    keys = set()
    for received in batch:
        keys.add(store.lock_key(str(received.session_id)))
        if received.claim is not None:
            keys.add(store.lock_key(*received.claim))
    return keys


async def _read(tx: AsyncConnection, batch: Sequence[Received], now: datetime) -> State:
    message_ids = {received.message_id for received in batch}
    message_ids |= {conflict_id(received.message_id, received.body_hash) for received in batch}
    session_ids = {received.session_id for received in batch}
    starting = {
        received.session_id for received in batch if isinstance(received.command, StartSession | RequestSession)
    }
    sessions = await store.find_sessions(tx, session_ids)
    return State(
        now=now,
        seen=await store.seen(tx, message_ids),
        sessions=sessions,
        requests=await store.find_requests(tx, session_ids - sessions.keys()),
        holders=await store.find_holders(tx, {received.claim for received in batch if received.claim is not None}),
        parked=await store.find_parked(tx, starting),
    )


def handle(state: State, received: Received) -> None:
    """Decide one command unless it was handled before; the same id with another body is refused, once."""
    known = state.seen.get(received.message_id)
    if known == received.body_hash:
        return
    session = state.sessions.get(received.session_id)
    if known is None:
        _record(state, received, received.message_id, decide(session, received, _facts(state, received)))
        return
    conflict = conflict_id(received.message_id, received.body_hash)
    if conflict not in state.seen:
        _record(state, received, conflict, refuse(session, received, Reason.IDEMPOTENCY_CONFLICT, state.now, conflict))


def _facts(state: State, received: Received) -> Facts:
    return Facts(
        now=state.now,
        claim_is_held=received.claim in state.holders,
        request_exists=received.session_id in state.requests,
        parked=tuple(state.parked.get(received.session_id, ())),
    )


def _record(state: State, received: Received, inbox_id: UUID, decided: Decided) -> None:
    """Carry the decision into the state, so that the rest of the batch sees it."""
    state.seen[inbox_id] = received.body_hash
    state.handled.append((received, Resolution(inbox_id, decided.outcome, decided.reason)))
    state.events += decided.events
    state.unparked += decided.unparked
    if decided.unparked:
        state.parked.pop(received.session_id, None)
    if decided.request is not None:
        state.decided_requests.append(decided.request)
        state.requests.add(decided.request.id)
    if decided.outcome is Outcome.PARKED:
        state.newly_parked.append((received, received.accepted_at + PARK_FOR))
        state.parked.setdefault(received.session_id, []).append(received)
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
    await store.save_sessions(tx, state.changed.values())
    await store.save_requests(tx, state.decided_requests)
    await store.save_inbox(tx, state.handled, state.now)
    await store.save_parked(tx, state.newly_parked)
    await store.unpark(tx, state.unparked)
    if not state.events:
        return None
    staged = Staged(uuid7(), [outbox_entry(event) for event in state.events])
    await store.save_outbox(tx, staged.outbox_id, orjson.dumps(staged.entries).decode(), state.now)
    return staged

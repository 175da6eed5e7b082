"""What time does to sessions and requests: parked commands expire, pending requests time out, silent sessions end.

Each finds candidates without locks, takes their locks, and looks again: whoever came first has decided.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker import store
from session_worker.apply import Policy, Staged, State, carry, charger_of, facts_for, write
from session_worker.authorize import TIMED_OUT, Verdict
from session_worker.decide import STALE_AFTER, Facts, Resolution, conclude, expire, refuse
from session_worker.directory import read_directory
from session_worker.outcomes import Handled
from session_worker.session import Claim, Reason, Request, request_claim
from shared.database import lock_key


async def refuse_expired(
    engine: AsyncEngine, *, after: datetime, now: datetime, most: int
) -> tuple[Handled, Staged | None]:
    """Refuse parked commands whose session had not come by their time, which lies between these; return them."""
    async with engine.begin() as tx:
        expired = await store.expired_parked(tx, after=after, now=now, most=most)
        if not expired:
            return (), None
        # Under the sessions' locks: a start at this moment either took them before or finds them gone.
        await store.lock(tx, (lock_key(str(session_id)) for session_id in expired.values()))
        state, handled = State(now=now, policy=Policy()), []
        for received in await store.take_parked(tx, expired):
            refused = refuse(None, received, Reason.UNKNOWN_SESSION, Facts(now=now))
            state.events += refused.events
            handled.append((received, Resolution(received.message_id, refused.outcome, refused.reason)))
        state.unparked += [resolution for _, resolution in handled]
        return handled, await write(tx, state)


async def end_stale(engine: AsyncEngine, *, now: datetime, most: int) -> tuple[int, Staged | None]:
    """End sessions without a sign of life for a day; return how many."""
    async with engine.begin() as tx:
        silent = await store.silent_sessions(tx, now - STALE_AFTER, most)
        if not silent:
            return 0, None
        await store.lock(tx, (lock_key(str(session_id)) for session_id in silent))
        state = State(now=now, policy=Policy(), sessions=await store.find_sessions(tx, silent))
        stale = [s for s in state.sessions.values() if not s.has_ended and s.updated_at < now - STALE_AFTER]
        for session in stale:
            carry(state, session.id, expire(session, uuid5(session.id, "stale"), now))
        return len(stale), await write(tx, state)


async def time_out(engine: AsyncEngine, *, now: datetime, policy: Policy, most: int) -> tuple[int, Staged | None]:
    """Decide `unknown` for requests that nobody decided in time; return how many."""
    async with engine.begin() as tx:
        overdue = await store.overdue_requests(tx, now, most)
        if not overdue:
            return 0, None
        return await _conclude_all(tx, dict.fromkeys(overdue, TIMED_OUT), now, policy)


async def decide_requests(
    engine: AsyncEngine, verdicts: Mapping[UUID, Verdict], *, now: datetime, policy: Policy
) -> tuple[int, Staged | None]:
    """Decide pending requests by these verdicts, those past their deadline as `unknown`; return how many it decided."""
    async with engine.begin() as tx:
        return await _conclude_all(tx, verdicts, now, policy)


async def _conclude_all(
    tx: AsyncConnection, verdicts: Mapping[UUID, Verdict], now: datetime, policy: Policy
) -> tuple[int, Staged | None]:
    candidates = await store.find_pending(tx, verdicts)
    await store.lock(tx, _lock_keys(candidates))
    pending = await store.find_pending(tx, verdicts)
    if not pending:
        return 0, None
    state = await _read(tx, pending, now, policy)
    for request in pending:
        is_late = request.deadline_at is not None and now >= request.deadline_at
        facts = facts_for(state, request.command, request.id, request_claim(request.command))
        carry(state, request.id, decided := conclude(request, TIMED_OUT if is_late else verdicts[request.id], facts))
        state.unparked.append(Resolution(request.message_id, decided.outcome, decided.reason))
    return len(pending), await write(tx, state)


async def _read(tx: AsyncConnection, pending: Iterable[Request], now: datetime, policy: Policy) -> State:
    chargers = {charger_of(request.command) for request in pending}
    return State(
        now=now,
        policy=policy,
        holders=await store.find_holders(tx, {request_claim(request.command) for request in pending}),
        parked=await store.find_parked(tx, {request.id for request in pending}),
        directory=await read_directory(tx, drivers=(), stations=(), chargers=chargers),
    )


def _lock_keys(requests: Iterable[Request]) -> set[int]:
    claims: set[Claim] = {request_claim(request.command) for request in requests}
    return {lock_key(str(request.id)) for request in requests} | {lock_key(*claim) for claim in claims}

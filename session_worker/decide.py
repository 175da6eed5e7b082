"""The rules of a charging session, pure: `decide` turns a command into the new state and the events.

It reads no clock, no database and no randomness. Refusals are events. What may only happen once (the inbox) and in
which order commands come (the batch) is for others to see to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from session_worker.session import Outcome, Reason, Received, Request, Session
from shared.commands import CancelSession, RequestSession, StartSession, StopSession
from shared.events import Event, EventType
from shared.ids import event_id
from shared.resources import Decision, Phase, request_json, session_json

# A stop that overtook its start waits this long for it; a queue that lags more has worse problems.
PARK_FOR: Final = timedelta(minutes=15)
_CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision needs to know beyond its session; read under the same locks."""

    now: datetime
    claim_is_held: bool = False
    request_exists: bool = False
    parked: tuple[Received, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome of one command, with its reason where it was refused."""

    message_id: UUID
    outcome: Outcome
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The new state (None where it is unchanged), the events, and the outcome of this and of parked commands."""

    outcome: Outcome
    session: Session | None = None
    request: Request | None = None
    events: tuple[Event, ...] = ()
    reason: Reason | None = None
    unparked: tuple[Resolution, ...] = field(default=())


def decide(session: Session | None, received: Received, facts: Facts) -> Decided:
    """Apply one command to one session."""
    return _RULES[type(received.command)](session, received, facts)


def refuse(
    session: Session | None, received: Received, reason: Reason, now: datetime, cause: UUID | None = None
) -> Decided:
    """Say no: an event to whoever asked, the session unchanged but for its event count.

    `cause` stands for the message where its own id already caused other events.
    """
    known = session if session is not None and received.may_act_on(session) else None
    counted = None if known is None else replace(known, sequence=known.sequence + 1)
    own_url = getattr(received.command, "callback_url", None)
    is_request = isinstance(received.command, RequestSession)
    event = Event(
        event_id=event_id(cause or received.message_id, 0),
        type=EventType.COMMAND_REJECTED,
        occurred_at=now,
        data={
            "sessionId": str(received.session_id),
            "command": received.command.TYPE,
            "messageId": str(received.message_id),
            "reason": str(reason),
            "session": None if known is None else session_json(known.row()),
            "sequence": 1 if counted is None else counted.sequence,
        },
        session_id=received.session_id,
        request_id=received.session_id if is_request else None if known is None else known.request_id,
        callback_url=own_url or (None if known is None else known.callback_url),
        client=received.client if known is None else known.client,
        caused_by=received.message_id,
    )
    return Decided(outcome=Outcome.REFUSED, session=counted, events=(event,), reason=reason)


def _start(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, StartSession)
    if session is not None:
        return refuse(session, received, Reason.SESSION_EXISTS, facts.now)
    born = Session(
        id=received.session_id,
        charger_id=command.charger_id,
        connector_id=command.connector_id,
        station_id=None,
        driver_id=command.driver_id,
        request_id=None,
        phase=Phase.ACTIVE,
        metadata=command.metadata,
        started_at=received.accepted_at,
        created_at=facts.now,
        updated_at=facts.now,
        client=received.client,
        callback_url=command.callback_url,
    )
    if facts.claim_is_held:
        busy = replace(born, phase=Phase.CANCELLED, reason=str(Reason.CHARGER_BUSY), started_at=None)
        return _unpark(refuse(busy, received, Reason.CHARGER_BUSY, facts.now), facts)
    if any(_ends(parked, born) for parked in facts.parked):
        return _unpark(_emit(born, (), received, facts.now), facts)
    return _unpark(_emit(born, (EventType.SESSION_STARTED,), received, facts.now), facts)


def _request(session: Session | None, received: Received, facts: Facts) -> Decided:
    """Decide a request; authorization `open` allows whatever the station has room for."""
    command = received.command
    assert isinstance(command, RequestSession)
    if session is not None or facts.request_exists:
        return refuse(session, received, Reason.SESSION_EXISTS, facts.now)
    if facts.claim_is_held:
        busy = Reason.CHARGER_BUSY if command.connector_id else Reason.CONCURRENT_SESSION
        denied = _request_row(received, command, Decision.NOT_ALLOWED, busy, facts.now)
        event = _request_event(denied, received, 1)
        return _unpark(Decided(outcome=Outcome.REFUSED, request=denied, events=(event,), reason=busy), facts)
    allowed = _request_row(received, command, Decision.ALLOWED, None, facts.now)
    born = Session(
        id=received.session_id,
        charger_id=command.station_id,
        connector_id=command.connector_id,
        station_id=command.station_id,
        driver_id=command.driver_id,
        request_id=received.session_id,
        phase=Phase.ACTIVE,
        metadata=command.metadata,
        started_at=received.accepted_at,
        created_at=facts.now,
        updated_at=facts.now,
        client=received.client,
        callback_url=command.callback_url,
        sequence=1,
    )
    event = _request_event(allowed, received, born.sequence)
    return _unpark(Decided(outcome=Outcome.APPLIED, session=born, request=allowed, events=(event,)), facts)


def _stop(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, StopSession)
    if session is None or not received.may_act_on(session):
        return _park_or_refuse(session, received, facts)
    if session.has_ended:
        return refuse(session, received, Reason.ALREADY_ENDED, facts.now)
    stopped = replace(
        session,
        phase=Phase.COMPLETED,
        reason=command.reason,
        energy_kwh=command.energy_kwh,
        final_cost=None if command.final_cost is None else command.final_cost.quantize(_CENT),
        ended_at=command.ended_at or received.accepted_at,
        updated_at=facts.now,
    )
    return _emit(stopped, (EventType.SESSION_COMPLETED,), received, facts.now)


def _cancel(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, CancelSession)
    if session is None or not received.may_act_on(session):
        return _park_or_refuse(session, received, facts)
    if session.has_ended:
        return refuse(session, received, Reason.ALREADY_ENDED, facts.now)
    return _emit(
        _cancelled(session, command.reason, received, facts.now), (EventType.SESSION_CANCELLED,), received, facts.now
    )


def _park_or_refuse(session: Session | None, received: Received, facts: Facts) -> Decided:
    """A command may overtake its start; another client's session is as unknown as none, but nothing comes later."""
    if session is None and not facts.request_exists and facts.now - received.accepted_at < PARK_FOR:
        return Decided(outcome=Outcome.PARKED)
    return refuse(None, received, Reason.UNKNOWN_SESSION, facts.now)


def _unpark(decided: Decided, facts: Facts) -> Decided:
    """Apply the commands that waited for this session, in the order in which they came."""
    session = decided.session
    events, unparked = list(decided.events), list(decided.unparked)
    for parked in facts.parked:
        result = _apply_parked(session, parked, facts.now)
        session = result.session or session
        events += result.events
        unparked.append(Resolution(parked.message_id, result.outcome, result.reason))
    return replace(decided, session=session, events=tuple(events), unparked=tuple(unparked))


def _apply_parked(session: Session | None, parked: Received, now: datetime) -> Decided:
    if session is None:
        return refuse(None, parked, Reason.UNKNOWN_SESSION, now)
    if not _ends(parked, session) or session.has_ended:
        return decide(session, parked, Facts(now=now, request_exists=True))
    cancelled = _cancelled(session, str(Reason.STOPPED_BEFORE_START), parked, now)
    return _emit(cancelled, (EventType.SESSION_CANCELLED,), parked, now)


def _ends(parked: Received, session: Session) -> bool:
    return isinstance(parked.command, StopSession | CancelSession) and parked.may_act_on(session)


def _cancelled(session: Session, reason: str | None, received: Received, now: datetime) -> Session:
    return replace(session, phase=Phase.CANCELLED, reason=reason, ended_at=received.accepted_at, updated_at=now)


def _emit(session: Session, types: tuple[EventType, ...], received: Received, now: datetime) -> Decided:
    """Return the session with these events, each numbered and each showing the session as it now is."""
    counted = replace(session, sequence=session.sequence + len(types))
    events = tuple(
        Event(
            event_id=event_id(received.message_id, index),
            type=type_,
            occurred_at=now,
            data=session_json(counted.row()) | {"sequence": session.sequence + index + 1},
            session_id=counted.id,
            request_id=counted.request_id,
            callback_url=counted.callback_url,
            client=counted.client,
            caused_by=received.message_id,
        )
        for index, type_ in enumerate(types)
    )
    return Decided(outcome=Outcome.APPLIED, session=counted, events=events)


def _request_row(
    received: Received, command: RequestSession, decision: Decision, reason: Reason | None, now: datetime
) -> Request:
    return Request(
        id=received.session_id,
        command=command,
        client=received.client,
        decision=decision,
        reason=None if reason is None else str(reason),
        session_id=received.session_id if decision is Decision.ALLOWED else None,
        decided_at=now,
        created_at=received.accepted_at,
    )


def _request_event(request: Request, received: Received, sequence: int) -> Event:
    return Event(
        event_id=event_id(received.message_id, 0),
        type=EventType.REQUEST_DECIDED,
        occurred_at=request.decided_at,
        data=request_json(request.row()) | {"sequence": sequence},
        session_id=request.session_id,
        request_id=request.id,
        callback_url=request.command.callback_url,
        client=request.client,
        caused_by=received.message_id,
    )


_RULES: Final[Mapping[type, Callable[[Session | None, Received, Facts], Decided]]] = {
    RequestSession: _request,
    StartSession: _start,
    StopSession: _stop,
    CancelSession: _cancel,
}

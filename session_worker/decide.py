"""The rules of a charging session, pure: `decide` turns a command into the new state and the events.

It reads no clock, no database and no randomness. Refusals are events. What may only happen once (the inbox) and in
which order commands come (the batch) is for others to see to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from session_worker.authorize import ALLOWED, Verdict
from session_worker.completion import CLOCK_SKEW, Adjustment, adjust, charge, complete, price_by_tariff
from session_worker.payments.payment import Payment, payment_json
from session_worker.payments.provider import Notice
from session_worker.payments.rules import Terms, open_payment
from session_worker.session import Outcome, Reason, Received, Request, Review, Session
from shared.commands import CancelSession, RecordMeter, RequestSession, StartSession, StopSession
from shared.events import Event, EventType
from shared.ids import event_id
from shared.meter import Sample, advance, comes_after, energy_kwh, fold
from shared.pricing import Tariff
from shared.resources import Decision, Phase, request_json, session_json

# A stop that overtook its start waits this long for it.
PARK_FOR: Final = timedelta(minutes=15)
# After an outage, or by a gateway's wrong clock, all are old, and the start may be in another worker's hands just now.
PARK_AT_LEAST: Final = timedelta(seconds=5)
# A stop accepted this soon after the start that it overtook ends what had hardly begun; a later one is paid for, and so
# is one that names what was taken.
HARDLY_BEGUN: Final = timedelta(minutes=1)
# Gateways' clocks differ by moments, and what has no timestamp counts as accepted when it is read.
IN_WRONG_ORDER: Final = timedelta(minutes=1)
# No sign of life for this long: nobody will stop it any more.
STALE_AFTER: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision needs to know beyond its session; read under the same locks."""

    now: datetime
    claim_is_held: bool = False
    request: Request | None = None
    parked: tuple[Received, ...] = ()
    verdict: Verdict | None = ALLOWED
    authorization_timeout: timedelta = timedelta(0)
    tariff: Tariff | None = None
    samples: tuple[Sample, ...] = ()
    # Of payments: who collects, what the session owes, what the provider points at.
    terms: Terms | None = None
    default_currency: str = "EUR"
    payment: Payment | None = None
    notice: Notice | None = None


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
    unparked: tuple[Resolution, ...] = ()
    samples: tuple[Sample, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    payment: Payment | None = None


def decide(session: Session | None, received: Received, facts: Facts) -> Decided:
    """Apply one command to one session."""
    return _RULES[type(received.command)](session, received, facts)


def refuse(
    session: Session | None, received: Received, reason: Reason, facts: Facts, cause: UUID | None = None
) -> Decided:
    """Say no: an event to whoever asked, the session or request unchanged but for its event count.

    `cause` stands for the message where its own id already caused other events.
    """
    known = session if session is not None and received.may_act_on(session) else None
    counted = None if known is None else replace(known, sequence=known.sequence + 1)
    asked = facts.request if session is None and _is_own(facts.request, received) else None
    recounted = None if asked is None else replace(asked, sequence=asked.sequence + 1)
    subject = counted or recounted
    event = Event(
        event_id=event_id(cause or received.message_id, 0),
        type=EventType.COMMAND_REJECTED,
        occurred_at=facts.now,
        data={
            "sessionId": str(received.session_id),
            "command": received.command.TYPE,
            "messageId": str(received.message_id),
            "reason": str(reason),
            "session": None if known is None else session_json(known.row()),
            "sequence": 1 if subject is None else subject.sequence,
        },
        session_id=received.session_id,
        request_id=_request_id(received, known, asked),
        callback_url=getattr(received.command, "callback_url", None) or _url_of(known, asked),
        client=received.client if subject is None else subject.client,
        caused_by=received.message_id,
    )
    return Decided(outcome=Outcome.REFUSED, session=counted, request=recounted, events=(event,), reason=reason)


def _is_own(request: Request | None, received: Received) -> bool:
    return request is not None and (received.privileged or request.client == received.client)


def _request_id(received: Received, session: Session | None, request: Request | None) -> UUID | None:
    if session is not None:
        return session.request_id
    return received.session_id if request is not None or isinstance(received.command, RequestSession) else None


def _url_of(session: Session | None, request: Request | None) -> str | None:
    if session is not None:
        return session.callback_url
    return None if request is None else request.command.callback_url


def _start(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, StartSession)
    if session is not None or facts.request is not None:
        return refuse(session, received, Reason.SESSION_EXISTS, facts)
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
        tariff=facts.tariff,
        currency=None if facts.tariff is None else facts.tariff.currency,
    )
    end = next((parked for parked in facts.parked if _ends(parked, born)), None)
    has_ended = end is not None and not _undoes(end, born)
    if facts.claim_is_held and not has_ended:
        busy = replace(born, phase=Phase.CANCELLED, reason=str(Reason.CHARGER_BUSY), started_at=None)
        return _unpark(refuse(busy, received, Reason.CHARGER_BUSY, facts), facts)
    began = () if end is not None and not has_ended else (EventType.SESSION_STARTED,)
    return _unpark(_emit(born, began, received.message_id, facts.now), facts)


def _request(session: Session | None, received: Received, facts: Facts) -> Decided:
    """Take a request; it is decided at once where the verdict is known, else it waits for it until its deadline."""
    command = received.command
    assert isinstance(command, RequestSession)
    if session is not None or facts.request is not None:
        return refuse(session, received, Reason.SESSION_EXISTS, facts)
    pending = Request(
        id=received.session_id,
        command=command,
        message_id=received.message_id,
        client=received.client,
        created_at=received.accepted_at,
        deadline_at=received.accepted_at + facts.authorization_timeout,
    )
    if facts.verdict is None:
        return Decided(outcome=Outcome.PARKED, request=pending)
    return conclude(pending, facts.verdict, facts)


def conclude(pending: Request, verdict: Verdict, facts: Facts) -> Decided:
    """Decide a request, once and for ever: allowed it is itself the start, else there is no session."""
    if verdict.decision is Decision.ALLOWED and facts.claim_is_held:
        busy = Reason.CHARGER_BUSY if pending.command.connector_id else Reason.CONCURRENT_SESSION
        verdict = Verdict(Decision.NOT_ALLOWED, busy)
    is_allowed = verdict.decision is Decision.ALLOWED
    decided = replace(
        pending,
        decision=verdict.decision,
        reason=None if verdict.reason is None else str(verdict.reason),
        session_id=pending.id if is_allowed else None,
        decided_at=facts.now,
        sequence=1,
    )
    outcome = Outcome.APPLIED if is_allowed else Outcome.REFUSED
    session = _session_of_request(decided, facts) if is_allowed else None
    events = (_request_event(decided, facts.now),)
    return _unpark(
        Decided(outcome=outcome, session=session, request=decided, events=events, reason=verdict.reason), facts
    )


def _session_of_request(request: Request, facts: Facts) -> Session:
    command = request.command
    return Session(
        id=request.id,
        charger_id=command.station_id,
        connector_id=command.connector_id,
        station_id=command.station_id,
        driver_id=command.driver_id,
        request_id=request.id,
        phase=Phase.ACTIVE,
        metadata=command.metadata,
        started_at=facts.now,
        created_at=facts.now,
        updated_at=facts.now,
        client=request.client,
        callback_url=command.callback_url,
        sequence=1,
        tariff=facts.tariff,
        currency=None if facts.tariff is None else facts.tariff.currency,
    )


def _stop(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, StopSession)
    if session is None or not received.may_act_on(session):
        return _park_or_refuse(session, received, facts)
    if session.has_ended:
        return refuse(session, received, Reason.ALREADY_ENDED, facts)
    ended = complete(session, command.ended_at or _end(session, received), command.energy_kwh, facts.now)
    if command.final_cost is None:
        priced = price_by_tariff(ended)
    else:
        priced = charge(ended, command.final_cost, session.currency or facts.default_currency)
    return _complete(replace(priced, reason=command.reason), received, facts)


def _end(session: Session, stop: Received) -> datetime:
    """Return when the session ended. A stop that seems moments older than the start was not: it ends at the begin."""
    began = session.started_at or stop.accepted_at
    return began if began - IN_WRONG_ORDER < stop.accepted_at < began else stop.accepted_at


def _complete(stopped: Session, received: Received, facts: Facts) -> Decided:
    """What the session cost is owed from now on; the provider is asked for a link later, whenever it answers."""
    cost, currency = stopped.final_cost, stopped.currency
    payment = None
    if facts.terms is not None:
        payment = open_payment(stopped.id, cost=cost, currency=currency, terms=facts.terms, now=facts.now)
    owing = replace(stopped, payment=None if payment is None else payment_json(payment))
    return replace(_emit(owing, (EventType.SESSION_COMPLETED,), received.message_id, facts.now), payment=payment)


def expire(session: Session, cause: UUID, now: datetime) -> Decided:
    """End a session that gave no sign of life for `STALE_AFTER`: never a silent bill, always a review."""
    last_sign = session.updated_at if session.meter is None else session.meter.last_at
    ended = complete(session, max(last_sign, session.started_at or last_sign), None, now)
    stale = replace(ended, reason=str(Reason.STALE), review=Review.STALE)
    return _emit(stale, (EventType.SESSION_COMPLETED,), cause, now)


def _meter(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, RecordMeter)
    if session is None or not received.may_act_on(session):
        return _park_or_refuse(session, received, facts)
    if session.phase is Phase.CANCELLED:
        return refuse(session, received, Reason.ALREADY_ENDED, facts)
    sample = Sample(command.measured_at or received.accepted_at, command.meter_wh, command.measured_at is not None)
    meter = advance(session.meter, sample) if comes_after(session.meter, sample) else fold((*facts.samples, sample))
    if session.phase is Phase.COMPLETED:
        adjusted = adjust(session, sample, meter, received)
        return Decided(outcome=Outcome.APPLIED, samples=(sample,), adjustments=() if adjusted is None else (adjusted,))
    skewed = sample.at > facts.now + CLOCK_SKEW
    measured = replace(
        session,
        meter=meter,
        energy_kwh=energy_kwh(meter),
        review=session.review or (Review.CLOCK_SKEW if skewed else None),
        updated_at=facts.now,
    )
    return Decided(outcome=Outcome.APPLIED, session=measured, samples=(sample,))


def _cancel(session: Session | None, received: Received, facts: Facts) -> Decided:
    command = received.command
    assert isinstance(command, CancelSession)
    if session is None or not received.may_act_on(session):
        return _park_or_refuse(session, received, facts)
    if session.has_ended:
        return refuse(session, received, Reason.ALREADY_ENDED, facts)
    cancelled = _cancelled(session, command.reason, received, facts.now)
    return _emit(cancelled, (EventType.SESSION_CANCELLED,), received.message_id, facts.now)


def _park_or_refuse(session: Session | None, received: Received, facts: Facts) -> Decided:
    """A command may overtake its start, however old; another client's session is as unknown as none, and stays so."""
    may_still_come = session is None and (facts.request is None or facts.request.decision is None)
    if may_still_come:
        return Decided(outcome=Outcome.PARKED)
    return refuse(None, received, Reason.UNKNOWN_SESSION, facts)


def parked_until(received: Received, now: datetime) -> datetime:
    """When a command that is parked now is refused, unless its session has come: 15 min after it was accepted."""
    return max(received.accepted_at + PARK_FOR, now + PARK_AT_LEAST)


def _unpark(decided: Decided, facts: Facts) -> Decided:
    """Apply the commands that waited for this session, in the order in which they came."""
    for parked in facts.parked:
        known = replace(facts, parked=(), samples=decided.samples, request=decided.request)
        result = _apply_parked(decided.session, parked, known)
        decided = replace(
            decided,
            session=result.session or decided.session,
            request=result.request or decided.request,
            events=decided.events + result.events,
            samples=decided.samples + result.samples,
            adjustments=decided.adjustments + result.adjustments,
            payment=result.payment or decided.payment,
            unparked=(*decided.unparked, Resolution(parked.message_id, result.outcome, result.reason)),
        )
    return decided


def _apply_parked(session: Session | None, parked: Received, facts: Facts) -> Decided:
    if session is None:
        return refuse(None, parked, Reason.UNKNOWN_SESSION, facts)
    if not _ends(parked, session) or not _undoes(parked, session) or session.has_ended:
        return decide(session, parked, facts)
    cancelled = _cancelled(session, str(Reason.STOPPED_BEFORE_START), parked, facts.now)
    return _emit(cancelled, (EventType.SESSION_CANCELLED,), parked.message_id, facts.now)


def _ends(parked: Received, session: Session) -> bool:
    return isinstance(parked.command, StopSession | CancelSession) and parked.may_act_on(session)


def _undoes(end: Received, session: Session) -> bool:
    """Whether it ends what had hardly begun, and names nothing taken. A request's session begins with its decision."""
    command = end.command
    names_what_was_taken = isinstance(command, StopSession) and bool(command.energy_kwh or command.final_cost)
    return end.accepted_at - (session.started_at or end.accepted_at) < HARDLY_BEGUN and not names_what_was_taken


def _cancelled(session: Session, reason: str | None, received: Received, now: datetime) -> Session:
    return replace(session, phase=Phase.CANCELLED, reason=reason, ended_at=received.accepted_at, updated_at=now)


def _emit(session: Session, types: tuple[EventType, ...], cause: UUID, now: datetime) -> Decided:
    """Return the session with these events, each numbered and each showing the session as it now is."""
    counted = replace(session, sequence=session.sequence + len(types))
    events = tuple(
        Event(
            event_id=event_id(cause, index),
            type=type_,
            occurred_at=now,
            data=session_json(counted.row()) | {"sequence": session.sequence + index + 1},
            session_id=counted.id,
            request_id=counted.request_id,
            callback_url=counted.callback_url,
            client=counted.client,
            caused_by=cause,
        )
        for index, type_ in enumerate(types)
    )
    return Decided(outcome=Outcome.APPLIED, session=counted, events=events)


def _request_event(request: Request, now: datetime) -> Event:
    return Event(
        event_id=event_id(request.message_id, 0),
        type=EventType.REQUEST_DECIDED,
        occurred_at=now,
        data=request_json(request.row()) | {"sequence": request.sequence},
        session_id=request.session_id,
        request_id=request.id,
        callback_url=request.command.callback_url,
        client=request.client,
        caused_by=request.message_id,
    )


_RULES: Final[Mapping[type, Callable[[Session | None, Received, Facts], Decided]]] = {
    RequestSession: _request,
    StartSession: _start,
    StopSession: _stop,
    CancelSession: _cancel,
    RecordMeter: _meter,
}

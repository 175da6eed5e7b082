"""Every situation that a session can be in, every command and what can guard it, and what the rules make of each. Pure.

The rules are executed, not described: `transitions` calls `decide`, `conclude` and `expire`. Identical rows are merged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from session_worker.authorize import ALLOWED, TIMED_OUT, UNKNOWN_DRIVER, Verdict
from session_worker.completion import CLOCK_SKEW, LONGEST, MOST_ENERGY_KWH
from session_worker.decide import HARDLY_BEGUN, STALE_AFTER, Decided, Facts, conclude, decide, expire
from session_worker.session import Outcome, Reason, Received, Request, Session
from shared.commands import AnyCommand, CancelSession, RecordMeter, RequestSession, StartSession, StopSession
from shared.pricing import MAX_COST
from shared.resources import Decision, Phase

_ID: Final = UUID(int=1)
_MESSAGE: Final = UUID(int=2)
_PARKED: Final = UUID(int=3)
_NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
_BEGAN: Final = _NOW - timedelta(hours=1)
_MOMENT: Final = timedelta(seconds=1)
_REFUSED: Final = Verdict(Decision.NOT_ALLOWED, Reason.BLOCKED)

NO_SESSION: Final = "–"
PENDING: Final = "request pending"
TURNED_DOWN: Final = "request turned down"
UNCHANGED: Final = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of the id that a command names."""

    name: str
    session: Session | None = None
    request: Request | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A circumstance; `changes` are of the command's fields, `received` and `facts` of what surrounds it."""

    name: str
    changes: Mapping[str, Any]
    received: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What the rules make of a command: the next situation, the types of the events, the outcome with its reasons."""

    to: str
    events: tuple[str, ...]
    outcome: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: all situations and guards with the same result. No guards means whatever the guard."""

    froms: tuple[str, ...]
    command: str
    guards: tuple[str, ...]
    result: Result


def transitions() -> list[Transition]:
    """Return the whole table."""
    rows: dict[tuple[str, tuple[str, ...], Result], list[str]] = {}
    for command, situation in ((command, situation) for command in _RULES for situation in situations()):
        by_result: dict[Result, list[str]] = {}
        for guard, result in _RULES[command](situation):
            by_result.setdefault(result, []).append(guard)
        for result, guards in by_result.items():
            named = _named(guards) if len(by_result) > 1 else ()
            rows.setdefault((command, named, result), []).append(situation.name)
    return [Transition(tuple(froms), *key) for key, froms in rows.items()]


def _named(guards: list[str]) -> tuple[str, ...]:
    """What has a row of its own is named there; the rest is `else`, where the usual case is among it."""
    return (_USUAL.name,) if _USUAL.name in guards else tuple(guards)


def situations() -> list[Situation]:
    """Return none, the two kinds of request without a session, and every phase."""
    command = RequestSession(
        station_id="station", driver_id="driver", callback_url="https://example.com/", request_id=_ID
    )
    pending = Request(
        id=_ID, command=command, message_id=_MESSAGE, client="client", created_at=_BEGAN, deadline_at=_BEGAN
    )
    turned_down = conclude(pending, _REFUSED, Facts(now=_NOW)).request
    return [
        Situation(name=NO_SESSION),
        Situation(name=PENDING, request=pending),
        Situation(name=TURNED_DOWN, request=turned_down),
        *(Situation(name=str(phase), session=_session(phase)) for phase in Phase),
    ]


def _session(phase: Phase) -> Session:
    return Session(
        id=_ID,
        charger_id="charger",
        connector_id=None,
        station_id=None,
        driver_id=None,
        request_id=None,
        phase=phase,
        started_at=_BEGAN,
        ended_at=_NOW if phase in (Phase.COMPLETED, Phase.CANCELLED) else None,
        created_at=_BEGAN,
        updated_at=_BEGAN,
        client="client",
    )


def _guard(name: str, *, received: Mapping[str, Any] = {}, facts: Mapping[str, Any] = {}, **changes: Any) -> Guard:
    return Guard(name=name, changes=changes, received=received, facts=facts)


def _command(command: AnyCommand, **received: Any) -> Received:
    defaults: dict[str, Any] = {"message_id": _MESSAGE, "client": "client", "privileged": False, "accepted_at": _NOW}
    return Received(command=command, session_id=_ID, body_hash=b"", **(defaults | received))


def _parked(command: AnyCommand, accepted_at: datetime = _BEGAN) -> dict[str, Any]:
    return {"parked": (_command(command, message_id=_PARKED, accepted_at=accepted_at),)}


_STOP_PARKED: Final = _parked(StopSession(session_id=_ID))
_STOP_NAMING_COST_PARKED: Final = _parked(StopSession(session_id=_ID, final_cost=Decimal(1)), _NOW)
_LATE_STOP_PARKED: Final = _parked(StopSession(session_id=_ID), _NOW + HARDLY_BEGUN)
_LATE_CANCEL_PARKED: Final = _parked(CancelSession(session_id=_ID), _NOW + HARDLY_BEGUN)
_METER_PARKED: Final = _parked(RecordMeter(session_id=_ID, meter_wh=Decimal(1)))
_OTHERS: Final = _guard("another client's", received={"client": "another"})
_USUAL: Final = _guard("else")
_TOO_LATE: Final = _BEGAN + LONGEST + _MOMENT
_AHEAD: Final = _NOW + CLOCK_SKEW + _MOMENT

_GUARDS: Final[Mapping[type[AnyCommand], tuple[Guard, ...]]] = {
    StartSession: (
        _guard("charger free"),
        _guard(
            "charger free, stop or cancel parked that came within 1 min and names neither energy nor a cost",
            facts=_STOP_PARKED,
        ),
        _guard(
            "charger free or busy, stop parked that names energy or a cost above 0",
            facts={"claim_is_held": True} | _STOP_NAMING_COST_PARKED,
        ),
        _guard("charger free or busy, stop parked that came later", facts={"claim_is_held": True} | _LATE_STOP_PARKED),
        _guard(
            "charger free or busy, cancel parked that came later", facts={"claim_is_held": True} | _LATE_CANCEL_PARKED
        ),
        _guard("charger free, meter value parked", facts=_METER_PARKED),
        _guard("charger busy", facts={"claim_is_held": True}),
        _guard(
            "charger busy, stop or cancel parked that came within 1 min and names neither energy nor a cost",
            facts={"claim_is_held": True} | _STOP_PARKED,
        ),
    ),
    RequestSession: (
        _guard("allowed, free"),
        _guard("allowed, free, stop or cancel parked that names neither energy nor a cost", facts=_STOP_PARKED),
        _guard("allowed, free, stop parked that names energy or a cost above 0", facts=_STOP_NAMING_COST_PARKED),
        _guard("allowed, the driver has a session at the station", facts={"claim_is_held": True}),
        _guard("allowed, connector busy", facts={"claim_is_held": True}, connector_id="1"),
        _guard("no verdict yet", facts={"verdict": None}),
        _guard("driver blocked (so for each refusal)", facts={"verdict": _REFUSED}),
        _guard("driver unknown", facts={"verdict": UNKNOWN_DRIVER}),
        _guard("not allowed, stop or cancel parked", facts={"verdict": _REFUSED} | _STOP_PARKED),
    ),
    StopSession: (
        _USUAL,
        _OTHERS,
        _guard("with a final cost", final_cost=Decimal(1)),
        _guard("ended before it began", ended_at=_BEGAN - _MOMENT),
        _guard("ends more than 5 min from now", ended_at=_AHEAD),
        _guard("longer than 72 h", received={"accepted_at": _TOO_LATE}, facts={"now": _TOO_LATE}),
        _guard("more than 1,000 kWh", energy_kwh=MOST_ENERGY_KWH + 1),
        # A hundred million yen: rounded to the currency, it is more than any cost.
        _guard("costs more than 99,999,999.99", facts={"default_currency": "JPY"}, final_cost=MAX_COST),
    ),
    CancelSession: (_USUAL, _OTHERS),
    RecordMeter: (_USUAL, _OTHERS, _guard("measured more than 5 min from now", measured_at=_AHEAD)),
}
_FIELDS: Final[Mapping[type[AnyCommand], dict[str, Any]]] = {
    StartSession: {"charger_id": "charger", "session_id": _ID},
    RequestSession: {
        "station_id": "station", "driver_id": "driver", "callback_url": "https://example.com/", "request_id": _ID,
    },
    StopSession: {"session_id": _ID},
    CancelSession: {"session_id": _ID},
    RecordMeter: {"session_id": _ID, "meter_wh": Decimal(1)},
}  # fmt: skip

Results = Iterator[tuple[str, Result]]


def _commanded(model: type[AnyCommand]) -> Callable[[Situation], Results]:
    def results(situation: Situation) -> Results:
        for guard in _GUARDS[model]:
            received = _command(model(**(_FIELDS[model] | dict(guard.changes))), **guard.received)
            facts = replace(Facts(now=_NOW, request=situation.request), **guard.facts)
            yield guard.name, _result(situation, decide(situation.session, received, facts))

    return results


def _concluded(situation: Situation) -> Results:
    """A verdict, or the deadline, comes for a request that waits; all others were decided, or never ask."""
    if situation.request is None or situation.request.decision is not None:
        return
    cases: Iterable[tuple[str, Verdict, dict[str, Any]]] = (
        ("allowed, free", ALLOWED, {}),
        ("allowed, free, stop or cancel parked that names neither energy nor a cost", ALLOWED, _STOP_PARKED),
        ("allowed, free, stop parked that names energy or a cost above 0", ALLOWED, _STOP_NAMING_COST_PARKED),
        ("allowed, the driver has a session at the station", ALLOWED, {"claim_is_held": True}),
        ("driver blocked (so for each refusal)", _REFUSED, {}),
        ("driver unknown", UNKNOWN_DRIVER, {}),
        ("deadline passed", TIMED_OUT, {}),
        ("not allowed, stop or cancel parked", _REFUSED, _STOP_PARKED),
    )
    for name, verdict, facts in cases:
        yield name, _result(situation, conclude(situation.request, verdict, replace(Facts(now=_NOW), **facts)))


def _expired(situation: Situation) -> Results:
    """The sweeper ends what gave no sign of life; what has ended it never picks."""
    if situation.session is not None and not situation.session.has_ended:
        later = _NOW + STALE_AFTER
        yield "", _result(situation, expire(situation.session, _MESSAGE, later))


_RULES: Final[Mapping[str, Callable[[Situation], Results]]] = {
    "start": _commanded(StartSession),
    "request": _commanded(RequestSession),
    "verdict": _concluded,
    "stop": _commanded(StopSession),
    "cancel": _commanded(CancelSession),
    "meter": _commanded(RecordMeter),
    "24 h of silence": _expired,
}


def _result(situation: Situation, decided: Decided) -> Result:
    return Result(
        _next(situation, decided), tuple(_event(event.type, event.data) for event in decided.events), _said(decided)
    )


def _next(situation: Situation, decided: Decided) -> str:
    if decided.session is not None:
        name = str(decided.session.phase)
    elif decided.request is not None:
        name = PENDING if decided.request.decision is None else TURNED_DOWN
    else:
        name = situation.name
    return UNCHANGED if name == situation.name else name


def _event(event_type: str, content: Mapping[str, Any]) -> str:
    return f"{event_type} ({content['decision']})" if "decision" in content else str(event_type)


def _said(decided: Decided) -> str:
    """The outcome with the reasons of the refusal, of the session's end, of its review; then the parked commands'."""
    words = [str(decided.outcome)]
    session = decided.session
    reasons = [decided.reason, session.reason if session is not None and session.reason != decided.reason else None]
    words += [str(reason) for reason in reasons if reason is not None]
    if session is not None and session.review is not None:
        words.append(f"(review {session.review})")
    if decided.outcome is Outcome.PARKED and decided.request is None:
        words.append("for a while")
    if decided.adjustments:
        words.append("(an adjustment)")
    parked = [f"{each.outcome} {each.reason or ''}".strip() for each in decided.unparked]
    return " ".join(words) + "".join(f"; parked: {each}" for each in parked)

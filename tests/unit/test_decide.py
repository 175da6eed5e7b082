"""The rules of a session, one by one."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from session_worker.decide import PARK_AT_LEAST, PARK_FOR, Decided, Facts, decide, parked_until, refuse
from session_worker.session import Outcome, Reason, Received, Request, Review, Session
from shared.events import EventType
from shared.resources import Decision, Phase, Status
from tests.builders import CALLBACK_URL, NOW, cancel, request, start, stop

FACTS = Facts(now=NOW)


def active(**changes: object) -> Session:
    """A session that has started."""
    session_id = uuid4()
    session = decide(None, start(session_id, **changes), FACTS).session
    assert session is not None
    return session


def decided_request() -> Request:
    """A request that was refused."""
    decided = decide(None, request(uuid4()), Facts(now=NOW, claim_is_held=True)).request
    assert decided is not None
    return decided


def types(decided: Decided) -> list[EventType]:
    return [event.type for event in decided.events]


def test_a_start_on_a_free_charger_begins_a_session_and_says_so() -> None:
    session_id = uuid4()
    decided = decide(None, start(session_id, fields={"metadata": {"bay": 3}}), FACTS)
    assert decided.outcome is Outcome.APPLIED
    assert decided.session is not None
    assert decided.session.phase is Phase.ACTIVE
    assert types(decided) == [EventType.SESSION_STARTED]
    data = decided.events[0].data
    assert data["sessionId"] == str(session_id)
    assert data["status"] == Status.IN_PROGRESS
    assert data["metadata"] == {"bay": 3}
    assert data["finalCost"] is None
    assert data["sequence"] == 1
    assert decided.events[0].callback_url == CALLBACK_URL


def test_a_start_on_a_busy_charger_leaves_a_cancelled_session_and_a_refusal() -> None:
    decided = decide(None, start(uuid4()), Facts(now=NOW, claim_is_held=True))
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.CHARGER_BUSY)
    assert decided.session is not None
    assert decided.session.phase is Phase.CANCELLED
    assert decided.session.reason == "CHARGER_BUSY"
    assert types(decided) == [EventType.COMMAND_REJECTED]
    assert decided.events[0].data["reason"] == "CHARGER_BUSY"


def test_a_start_with_the_id_of_a_known_session_changes_nothing_of_it() -> None:
    session = active()
    decided = decide(session, start(session.id, fields={"charger_id": "OTHER"}), FACTS)
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.SESSION_EXISTS)
    assert decided.session is not None
    assert decided.session.charger_id == session.charger_id


def test_an_allowed_request_is_itself_the_start() -> None:
    request_id = uuid4()
    decided = decide(None, request(request_id), FACTS)
    assert types(decided) == [EventType.REQUEST_DECIDED]
    assert decided.request is not None
    assert decided.request.decision is Decision.ALLOWED
    assert decided.session is not None
    assert decided.session.phase is Phase.ACTIVE
    data = decided.events[0].data
    assert data["decision"] == "allowed"
    assert data["sessionId"] == str(decided.session.id)
    assert data["sequence"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({}, Reason.CONCURRENT_SESSION), ({"connector_id": "2"}, Reason.CHARGER_BUSY)],
    ids=["driver already charges at the station", "connector is taken"],
)
def test_a_request_without_room_is_not_allowed_and_makes_no_session(fields: dict[str, str], reason: Reason) -> None:
    decided = decide(None, request(uuid4(), fields=fields), Facts(now=NOW, claim_is_held=True))
    assert decided.session is None
    assert decided.request is not None
    assert (decided.request.decision, decided.request.reason) == (Decision.NOT_ALLOWED, str(reason))
    assert decided.events[0].data["sessionId"] is None


def test_a_request_is_decided_once() -> None:
    decided = decide(None, request(uuid4()), Facts(now=NOW, request=decided_request()))
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.SESSION_EXISTS)
    assert decided.request is not None
    assert decided.request.decision is Decision.NOT_ALLOWED, "what was decided stays decided"


def test_a_command_for_a_denied_request_is_refused_where_the_request_was_answered() -> None:
    """Every event of a request goes to its callback URL, numbered on."""
    denied = decided_request()
    decided = decide(None, stop(denied.id), Facts(now=NOW, request=denied))
    event = decided.events[0]
    assert (decided.reason, event.data["sequence"]) == (Reason.UNKNOWN_SESSION, 2)
    assert (event.callback_url, event.request_id) == (CALLBACK_URL, denied.id)
    again = decide(None, stop(denied.id), Facts(now=NOW, request=decided.request))
    assert again.events[0].data["sequence"] == 3


def test_a_stop_completes_the_session_with_the_cost_it_brings() -> None:
    session = active()
    fields = {"energy_kwh": Decimal("12.34"), "final_cost": Decimal("3.1")}
    decided = decide(session, stop(session.id, fields=fields), FACTS)
    assert decided.session is not None
    assert decided.session.phase is Phase.COMPLETED
    data = decided.events[0].data
    assert (data["finalCost"], data["energyKwh"], data["status"]) == ("3.10", "12.34", "COMPLETED")
    assert data["sequence"] == 2


def test_a_stop_without_a_cost_leaves_it_unknown_not_zero() -> None:
    session = active()
    decided = decide(session, stop(session.id), FACTS)
    assert decided.session is not None
    assert decided.session.final_cost is None


def test_a_cancelled_session_is_never_billed() -> None:
    session = active()
    decided = decide(session, cancel(session.id, fields={"reason": "cable broken"}), FACTS)
    assert decided.session is not None
    assert (decided.session.phase, decided.session.final_cost) == (Phase.CANCELLED, None)
    assert decided.session.reason == "cable broken"
    assert types(decided) == [EventType.SESSION_CANCELLED]


@pytest.mark.parametrize("again", [stop, cancel])
@pytest.mark.parametrize("end", [stop, cancel])
def test_an_ended_session_refuses_another_end_and_stays_as_it_is(end: object, again: object) -> None:
    session = active()
    ended = decide(session, end(session.id), FACTS).session  # type: ignore[operator]
    assert ended is not None
    decided = decide(ended, again(session.id), FACTS)  # type: ignore[operator]
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.ALREADY_ENDED)
    assert decided.session is not None
    before, after = ended.row(), decided.session.row()
    assert before.pop("sequence") + 1 == after.pop("sequence")
    assert before == after


@pytest.mark.parametrize("early", [stop, cancel])
def test_a_command_for_an_unknown_session_is_parked(early: object) -> None:
    command: Received = early(uuid4())  # type: ignore[operator]
    assert decide(None, command, FACTS) == Decided(outcome=Outcome.PARKED)
    assert parked_until(command, NOW) == NOW + PARK_FOR


@pytest.mark.parametrize("age", [PARK_FOR, timedelta(hours=1)])
def test_a_command_that_waited_for_long_elsewhere_is_parked_for_moments(age: timedelta) -> None:
    """Its start, as old as it, may be in another worker's hands."""
    command, now = stop(uuid4()), NOW + age
    assert decide(None, command, Facts(now=now)) == Decided(outcome=Outcome.PARKED)
    assert parked_until(command, now) == now + PARK_AT_LEAST


def test_a_stop_that_overtook_its_start_cancels_it_at_once() -> None:
    session_id = uuid4()
    parked = stop(session_id)
    decided = decide(None, start(session_id), Facts(now=NOW, parked=(parked,)))
    assert decided.session is not None
    assert (decided.session.phase, decided.session.reason) == (Phase.CANCELLED, "STOPPED_BEFORE_START")
    assert types(decided) == [EventType.SESSION_CANCELLED]
    assert [(r.message_id, r.outcome) for r in decided.unparked] == [(parked.message_id, Outcome.APPLIED)]


@pytest.mark.parametrize(("seconds", "phase"), [(59, Phase.CANCELLED), (60, Phase.COMPLETED)])
def test_a_stop_that_overtook_its_start_ends_what_had_hardly_begun(seconds: int, phase: Phase) -> None:
    """After an outage, what was accepted long after the start may be read before it."""
    session_id = uuid4()
    parked = stop(session_id, accepted_at=NOW + timedelta(seconds=seconds))
    session = decide(None, start(session_id), Facts(now=NOW + timedelta(hours=1), parked=(parked,))).session
    assert session is not None
    assert session.phase is phase


@pytest.mark.parametrize("fields", [{"energy_kwh": Decimal("0.1")}, {"final_cost": Decimal("0.01")}])
@pytest.mark.parametrize("is_held", [True, False])
def test_a_stop_that_names_what_was_taken_completes_what_it_overtook(fields: dict[str, Decimal], is_held: bool) -> None:
    """Without timestamps it counts as accepted when it was read, moments before its start; that is no early end."""
    session_id = uuid4()
    parked = stop(session_id, accepted_at=NOW - timedelta(seconds=3), fields=fields)
    decided = decide(None, start(session_id), Facts(now=NOW, parked=(parked,), claim_is_held=is_held))
    session = decided.session
    assert session is not None
    assert (session.phase, session.review, session.final_cost) == (Phase.COMPLETED, None, fields.get("final_cost"))
    assert session.started_at == session.ended_at == NOW
    assert types(decided) == [EventType.SESSION_STARTED, EventType.SESSION_COMPLETED]


def test_a_stop_that_names_nothing_taken_cancels_what_it_overtook() -> None:
    session_id = uuid4()
    parked = stop(session_id, fields={"energy_kwh": Decimal(0), "final_cost": Decimal(0)})
    session = decide(None, start(session_id), Facts(now=NOW, parked=(parked,))).session
    assert session is not None
    assert session.phase is Phase.CANCELLED


def test_a_stop_that_names_what_was_taken_waits_for_a_verdict_too() -> None:
    session_id = uuid4()
    parked = stop(session_id, accepted_at=NOW - timedelta(seconds=3), fields={"final_cost": Decimal(5)})
    decided = decide(None, request(session_id), Facts(now=NOW, parked=(parked,)))
    assert decided.session is not None
    assert (decided.session.review, decided.session.final_cost) == (None, Decimal("5.00"))
    assert types(decided) == [EventType.REQUEST_DECIDED, EventType.SESSION_COMPLETED]


@pytest.mark.parametrize(("early", "review"), [(59, None), (60, Review.ENDED_BEFORE_START)])
def test_a_stop_moments_before_its_start_ended_no_earlier(early: int, review: Review | None) -> None:
    """Long before, somebody's clock is wrong, or what has no timestamp was held up for long."""
    session = active()
    early_stop = stop(session.id, accepted_at=NOW - timedelta(seconds=early))
    ended = decide(session, early_stop, FACTS).session
    assert ended is not None
    assert (ended.phase, ended.review) == (Phase.COMPLETED, review)


def test_a_session_that_ended_before_its_start_was_read_needs_no_charger() -> None:
    """The charger's next session was read first."""
    session_id = uuid4()
    parked = stop(session_id, accepted_at=NOW + timedelta(minutes=55))
    decided = decide(None, start(session_id), Facts(now=NOW, claim_is_held=True, parked=(parked,)))
    assert decided.session is not None
    assert (decided.outcome, decided.session.phase, decided.session.claim) == (Outcome.APPLIED, Phase.COMPLETED, None)
    assert types(decided) == [EventType.SESSION_STARTED, EventType.SESSION_COMPLETED]


def test_only_the_first_of_two_parked_ends_is_applied() -> None:
    session_id = uuid4()
    first, second = stop(session_id), cancel(session_id)
    decided = decide(None, request(session_id), Facts(now=NOW, parked=(first, second)))
    assert types(decided) == [
        EventType.REQUEST_DECIDED,
        EventType.SESSION_CANCELLED,
        EventType.COMMAND_REJECTED,
    ]
    assert [event.data["sequence"] for event in decided.events] == [1, 2, 3]
    assert [r.outcome for r in decided.unparked] == [Outcome.APPLIED, Outcome.REFUSED]


def test_a_parked_stop_of_a_refused_request_is_refused_too() -> None:
    request_id = uuid4()
    decided = decide(None, request(request_id), Facts(now=NOW, claim_is_held=True, parked=(stop(request_id),)))
    assert decided.session is None
    assert [r.reason for r in decided.unparked] == [Reason.UNKNOWN_SESSION]


def test_another_clients_session_is_as_unknown_as_none() -> None:
    session = active(client="app")
    decided = decide(session, stop(session.id, client="stranger", privileged=False), FACTS)
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, Reason.UNKNOWN_SESSION)
    assert decided.session is None
    assert decided.events[0].data["session"] is None
    assert decided.events[0].callback_url is None


def test_the_same_decision_gives_the_same_event_ids() -> None:
    command = start(uuid4())
    assert decide(None, command, FACTS).events == decide(None, command, FACTS).events


def test_a_conflict_has_an_event_id_of_its_own() -> None:
    """The first use of the message id caused events already; the refusal's must not look like their duplicate."""
    session = active()
    command = start(session.id)
    plain = refuse(session, command, Reason.SESSION_EXISTS, FACTS).events[0]
    conflict = refuse(session, command, Reason.IDEMPOTENCY_CONFLICT, FACTS, uuid4()).events[0]
    assert plain.event_id != conflict.event_id


@pytest.mark.parametrize("is_pending", [True, False])
def test_a_start_cannot_take_the_id_of_a_request(is_pending: bool) -> None:
    """A verdict that comes later would make a second session of the same id."""
    asked = decided_request()
    if is_pending:
        pending = decide(None, request(uuid4()), Facts(now=NOW, verdict=None)).request
        assert pending is not None
        asked = pending
    decided = decide(None, start(asked.id), Facts(now=NOW, request=asked))
    assert (decided.outcome, decided.reason, decided.session) == (Outcome.REFUSED, Reason.SESSION_EXISTS, None)

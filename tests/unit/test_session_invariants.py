"""Arbitrary interleavings, duplicates and reorderings of commands, against the batch state without a database."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid5

from hypothesis import given, settings
from hypothesis import strategies as st

from session_worker.apply import Policy, State, handle
from session_worker.session import Outcome, Received
from shared.commands import SetTariff
from shared.events import EventType
from shared.ids import NAMESPACE
from shared.meter import usage
from shared.pricing import price
from shared.resources import Phase, money_text
from tests.builders import NOW, cancel, meter, received, request, start, stop

TARIFF_ID = uuid5(NAMESPACE, "tariff")
IDS = [uuid5(NAMESPACE, str(number)) for number in range(4)]

session_ids = st.sampled_from(IDS)
starts = st.builds(lambda i, c: start(i, fields={"charger_id": c}), session_ids, st.sampled_from("AB"))
requests = st.builds(
    lambda i, c: request(i, fields={"station_id": "A", "connector_id": c}), session_ids, st.sampled_from([None, "1"])
)
ends = st.builds(
    lambda i, end: end(i),
    session_ids,
    st.sampled_from([stop, cancel, lambda i: stop(i, fields={"energy_kwh": Decimal(1)})]),
)
meters = st.builds(
    lambda i, wh, minute: meter(i, wh, fields={"measured_at": NOW + timedelta(minutes=minute)}),
    session_ids, st.integers(0, 5000), st.integers(-30, 0),
)  # fmt: skip


def set_tariff(flat: int) -> Received:
    """An operator's new default tariff."""
    command = SetTariff(name="default", currency="EUR", flat=Decimal(flat), per_kwh=Decimal("0.5"))
    return received(command, TARIFF_ID, is_operator=True)


tariffs = st.builds(set_tariff, st.integers(0, 9))
commands = st.lists(st.one_of(starts, requests, ends, meters, tariffs), max_size=30)


def fresh_state() -> State:
    return State(now=NOW, policy=Policy())


def run(batch: list[Received]) -> State:
    state = fresh_state()
    for command in batch:
        handle(state, command)
    return state


@given(commands, st.data())
@settings(max_examples=300)
def test_invariants_hold_for_any_order_and_any_duplicates(batch: list[Received], data: st.DataObject) -> None:
    """One active session per claim; every command one outcome; ended sessions never change; sequences have no gap."""
    copies = data.draw(st.lists(st.sampled_from(batch), max_size=10)) if batch else []
    state = run(data.draw(st.permutations(batch + copies)))

    claims = Counter(session.claim for session in state.sessions.values() if session.claim is not None)
    assert all(count == 1 for count in claims.values())
    assert set(claims) == set(state.holders)

    outcomes = Counter(resolution.message_id for _, resolution in state.handled)
    assert set(outcomes.values()) <= {1}
    assert outcomes.keys() == {command.message_id for command in batch}

    resolved = Counter(resolution.message_id for resolution in state.unparked)
    parked = {r.message_id for _, r in state.handled if r.outcome is Outcome.PARKED}
    waiting = {command.message_id for queue in state.parked.values() for command in queue}
    assert set(resolved.values()) <= {1}
    assert parked == resolved.keys() | waiting

    assert len({event.event_id for event in state.events}) == len(state.events)
    assert_sequences(state)
    assert_ended_once(state)
    assert_priced_by_what_was_frozen(state)


def assert_sequences(state: State) -> None:
    """The events of a session that exists are numbered 1, 2, 3, … in the order in which they were committed."""
    numbers: dict[UUID, list[int]] = {}
    for event in state.events:
        session_id = event.session_id
        is_about_session = event.type is not EventType.COMMAND_REJECTED or event.data["session"] is not None
        if session_id is not None and is_about_session:
            numbers.setdefault(session_id, []).append(event.data["sequence"])
    for session_id, sequence in numbers.items():
        assert sequence == list(range(1, len(sequence) + 1)), session_id
        assert state.sessions[session_id].sequence == len(sequence)


def assert_ended_once(state: State) -> None:
    ends_seen = Counter(
        event.session_id
        for event in state.events
        if event.type in (EventType.SESSION_COMPLETED, EventType.SESSION_CANCELLED)
    )
    assert all(count == 1 for count in ends_seen.values())


def assert_priced_by_what_was_frozen(state: State) -> None:
    """The price of a completed session is the pricing function of its frozen tariff and its own meter values."""
    for session in state.sessions.values():
        if session.phase is not Phase.COMPLETED or session.review is not None or session.tariff is None:
            continue
        ended = next(e for e in state.events if e.session_id == session.id and e.type is EventType.SESSION_COMPLETED)
        assert session.ended_at is not None
        used = usage(session.meter, session.energy_kwh, session.started_at or NOW, session.ended_at)
        assert session.final_cost == price(session.tariff, used)
        assert ended.data["finalCost"] == (None if session.final_cost is None else money_text(session.final_cost))


@given(commands)
@settings(max_examples=100)
def test_a_batch_decides_as_one_by_one_would(batch: list[Received]) -> None:
    """What a batch carries from command to command is what the database would have shown."""
    whole = run(batch)
    again = fresh_state()
    for command in batch:
        handle(again, command)
        again.changed.clear()
    assert whole.sessions == again.sessions
    assert whole.events == again.events

"""From what a payment learned to the events that tell it, pure: each numbered, each with the session as it now is."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from session_worker.payments.learning import Note
from session_worker.session import Session
from shared.events import Event, EventType
from shared.ids import event_id
from shared.resources import session_json


def events_of(session: Session, notes: Iterable[Note], now: datetime) -> tuple[Session, list[Event]]:
    """Return the session with its count of events, and the events."""
    events = []
    for note in notes:
        session = replace(session, sequence=session.sequence + 1)
        events.append(_event(session, note, now))
    return session, events


def _event(session: Session, note: Note, now: datetime) -> Event:
    shown = session_json(session.row())
    is_refusal = note.type is EventType.COMMAND_REJECTED
    # A refused command's event has the session beside it, as everywhere.
    data = {"sessionId": str(session.id), "session": shown} if is_refusal else shown
    return Event(
        event_id=event_id(note.cause, 0),
        type=note.type,
        occurred_at=now,
        data={**data, **note.extra, "sequence": session.sequence},
        session_id=session.id,
        request_id=session.request_id,
        callback_url=session.callback_url,
        client=session.client,
        caused_by=note.cause,
    )

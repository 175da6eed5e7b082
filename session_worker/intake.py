"""From a message to a command with its circumstances, or to the reason why nobody can understand it."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from session_worker.session import Received
from shared.commands import (
    CLIENT,
    PRIVILEGED,
    AnyCommand,
    ProviderEvent,
    RemoveDriver,
    RemoveStation,
    RequestSession,
    SetDriver,
    SetStation,
    SetTariff,
    StartSession,
    body_hash,
    parse_command,
)
from shared.commands import COMMANDS as COMMANDS_BY_TYPE
from shared.errors import RejectCode, Rejected
from shared.ids import NAMESPACE, minted_at
from shared.messages import MAX_BODY_BYTES, Inbound
from shared.topology import COMMANDS

# AMQP timestamps are whole seconds: the true time lies up to this much later.
_TIMESTAMP_STEP: Final = timedelta(seconds=1)
# A clock or unit may be wrong; an older timestamp is not believed. A gateway's messages wait out long outages.
_OLDEST_BELIEVED: Final = timedelta(hours=24)
_OLDEST_BELIEVED_OF_OURS: Final = timedelta(days=7)


def receive(inbound: Inbound, now: datetime, types: Collection[str] = COMMANDS_BY_TYPE.keys()) -> Received:
    """Return the command of a message from the queue of these types. Raises Rejected: it goes to the dead letters."""
    message = inbound.message
    command_type = message.type or inbound.routing_key
    if inbound.unreadable is not None:
        raise Rejected(RejectCode.UNREADABLE_PROPERTIES, "the AMQP properties cannot be decoded")
    if len(message.body) > MAX_BODY_BYTES:
        raise Rejected(RejectCode.TOO_LARGE, f"{len(message.body)} bytes; at most {MAX_BODY_BYTES}")
    message_id = _message_id(message.message_id)
    command = _with_id(parse_command(message.body, command_type), message_id)
    if command_type not in types:
        raise Rejected(RejectCode.UNKNOWN_TYPE, f"{command_type} does not belong on this queue")
    client, privileged = _caller(inbound)
    return Received(
        command=command,
        message_id=message_id,
        session_id=_subject_id(command),
        client=client,
        privileged=privileged,
        is_operator=privileged and inbound.exchange == COMMANDS,
        accepted_at=_accepted_at(message.timestamp, now, is_ours=inbound.exchange == COMMANDS),
        body_hash=body_hash(command),
        minted_at=_minted_at(inbound, message_id),
    )


def _message_id(value: str | None) -> UUID:
    try:
        return UUID(value or "")
    except ValueError:
        raise Rejected(RejectCode.NO_MESSAGE_ID, "the property message_id must be a UUID") from None


def _with_id(command: AnyCommand, message_id: UUID) -> AnyCommand:
    """A request or start that names no id is called by its message."""
    match command:
        case StartSession(session_id=None):
            return command.model_copy(update={"session_id": message_id})
        case RequestSession(request_id=None):
            return command.model_copy(update={"request_id": message_id})
    return command


def _subject_id(command: AnyCommand) -> UUID:
    """Return the session or request that the command is about, or an id that stands for its driver, station, tariff."""
    match command:
        case RequestSession(request_id=UUID() as subject):
            return subject
        case SetDriver(driver_id=name) | RemoveDriver(driver_id=name):
            return uuid5(NAMESPACE, f"driver {name}")
        case SetStation(station_id=name) | RemoveStation(station_id=name):
            return uuid5(NAMESPACE, f"station {name}")
        case SetTariff(name=name):
            return uuid5(NAMESPACE, f"tariff {name}")
        case ProviderEvent(provider=name, event_id=event):
            return uuid5(NAMESPACE, f"{name} event {event}")
    assert not isinstance(command, RequestSession)
    assert command.session_id is not None
    return command.session_id


def _caller(inbound: Inbound) -> tuple[str | None, bool]:
    """Return the client's name and whether it may act on every session.

    Only the gateway may publish to `charging.commands`, and it says whom it serves. A partner is trusted as far as the
    broker lets it publish; `user_id`, which the broker checks, names it.
    """
    if inbound.exchange != COMMANDS:
        return inbound.message.user_id, True
    client = inbound.message.headers.get(CLIENT)
    return client if isinstance(client, str) else None, inbound.message.headers.get(PRIVILEGED) is not False


def _minted_at(inbound: Inbound, message_id: UUID) -> datetime | None:
    """Return when the message was made, by its id, which also a repetition bears.

    An id that a key stands for has no time, but the gateway's message has one; a partner's timestamp is not believed.
    """
    return minted_at(message_id) or (inbound.message.timestamp if inbound.exchange == COMMANDS else None)


def _accepted_at(timestamp: datetime | None, now: datetime, *, is_ours: bool) -> datetime:
    """Return when the gateway or partner took the command: what waited in the queue did not start later for it."""
    oldest = _OLDEST_BELIEVED_OF_OURS if is_ours else _OLDEST_BELIEVED
    if timestamp is None or timestamp >= now or now - timestamp > oldest:
        return now
    return min(now, timestamp + _TIMESTAMP_STEP)

"""Applies one command about callbacks in one transaction: the inbox first, so that a message acts once.

Killed before the commit, nothing happened and the message comes again; killed after it, the inbox knows the message.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker.redelivery_store import add_job, add_redelivery, count_redeliveries
from callback_worker.subscriptions import remove_subscription, set_subscription
from callback_worker.tables import inbox
from shared.callback_commands import CallbackCommand, Redeliver, RemoveSubscription, SetSubscription
from shared.database import insert_rows
from shared.ids import conflict_id
from shared.retention.age import is_forgotten

# Whoever mends a receiver tries a few times; more in an hour is a loop, whose attempts fill the log.
REDELIVERIES_MOST: Final = 100
REDELIVERIES_WITHIN: Final = timedelta(hours=1)

_KNOWN = text('SELECT "bodyHash" FROM callback_inbox WHERE "messageId" = :message_id')
_REFUSE = text("""
    UPDATE callback_inbox SET outcome = 'REFUSED', reason = :reason WHERE "messageId" = :message_id""")
_IF_NEW: Final = 'ON CONFLICT ("messageId") DO NOTHING RETURNING "messageId"'


class Refusal(StrEnum):
    """Why a command that was understood changes nothing; stable."""

    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    NOT_PRIVILEGED = "NOT_PRIVILEGED"
    TOO_MANY_REDELIVERIES = "TOO_MANY_REDELIVERIES"
    TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"
    TOO_OLD = "TOO_OLD"
    UNKNOWN_CALLBACK = "UNKNOWN_CALLBACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A command, whom it serves, and whether that caller may act on everybody's callbacks.

    `minted_at` is when it was made, where that is known.
    """

    command: CallbackCommand
    message_id: UUID
    body_hash: bytes
    client: str
    privileged: bool
    minted_at: datetime | None = None

    @property
    def acts_on(self) -> str | None:
        """The client whose callbacks it may act on; None is everybody's."""
        return None if self.privileged else self.client


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of a command; one that came again changed nothing."""

    refusal: Refusal | None = None
    is_repeated: bool = False


async def apply(
    tx: AsyncConnection, received: Received, *, now: datetime, keep_for: timedelta, remembered_days: int
) -> Handled:
    """Apply the command, or refuse it, and note which in the inbox. A redelivery finds its turn within `keep_for`.

    What is older than the inbox remembers is refused: an old setting must not take the place of a newer one.
    """
    if not await _note(tx, received, received.message_id, now):
        return await _repeated(tx, received, now)
    if is_forgotten(received.minted_at, now, remembered_days):
        refusal: Refusal | None = Refusal.TOO_OLD
    else:
        refusal = await _handle(tx, received, now, now + keep_for)
    if refusal is not None:
        await tx.execute(_REFUSE, {"message_id": received.message_id, "reason": str(refusal)})
    return Handled(refusal)


async def _note(tx: AsyncConnection, received: Received, inbox_id: UUID, now: datetime) -> bool:
    """Insert the inbox row; return whether it is new. One that another worker is inserting is waited for."""
    row = {
        "messageId": inbox_id,
        "type": received.command.TYPE,
        "bodyHash": received.body_hash,
        "outcome": "APPLIED",
        "reason": None,
        "receivedAt": now,
    }
    return (await insert_rows(tx, inbox, [row], _IF_NEW)).one_or_none() is not None


async def _repeated(tx: AsyncConnection, received: Received, now: datetime) -> Handled:
    """The same id with another body is refused, once a body."""
    known = (await tx.execute(_KNOWN, {"message_id": received.message_id})).scalar_one()
    if bytes(known) == received.body_hash:
        return Handled(is_repeated=True)
    conflict = conflict_id(received.message_id, received.body_hash)
    if await _note(tx, received, conflict, now):
        await tx.execute(_REFUSE, {"message_id": conflict, "reason": str(Refusal.IDEMPOTENCY_CONFLICT)})
    return Handled(Refusal.IDEMPOTENCY_CONFLICT)


async def _handle(tx: AsyncConnection, received: Received, now: datetime, expires_at: datetime) -> Refusal | None:
    match received.command:
        case SetSubscription() as command:
            is_set = await set_subscription(tx, received.client, command, now)
            return None if is_set else Refusal.TOO_MANY_SUBSCRIPTIONS
        case RemoveSubscription(name=name):
            await remove_subscription(tx, received.client, name)
            return None
        case Redeliver(callback_id=UUID() as callback_id):
            if await _were_too_many(tx, received, callback_id, now):
                return Refusal.TOO_MANY_REDELIVERIES
            is_known = await add_redelivery(
                tx, callback_id, received.message_id, received.acts_on, now=now, expires_at=expires_at
            )
            return None if is_known else Refusal.UNKNOWN_CALLBACK
        case Redeliver() as command:
            if not received.privileged:
                return Refusal.NOT_PRIVILEGED
            await add_job(tx, command, received.message_id, now)
            return None
    assert_never(received.command)


async def _were_too_many(tx: AsyncConnection, received: Received, callback_id: UUID, now: datetime) -> bool:
    """Whether a client has had its callback sent again as often as it may; operators may always."""
    if received.privileged:
        return False
    count = await count_redeliveries(tx, callback_id, received.client, since=now - REDELIVERIES_WITHIN)
    return count >= REDELIVERIES_MOST

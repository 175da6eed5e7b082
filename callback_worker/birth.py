"""An event becomes a delivery: rows in one transaction, claimed at birth as far as there are slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from callback_worker.delivery import Attempt, State, Terms
from callback_worker.destination import host_of
from callback_worker.dispatch import Dispatcher
from callback_worker.retries import Alarm, Retries
from callback_worker.slots import Slots
from callback_worker.store import insert_deliveries, open_attempts
from shared.events import ReceivedEvent
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class Owed:
    """An event and the URL that it is owed to."""

    event: ReceivedEvent
    url: str


@dataclass(frozen=True, slots=True)
class _Newborn:
    """A delivery's row, and its first attempt where a slot was free."""

    row: dict[str, Any]
    attempt: Attempt | None


class Births:
    """Makes deliveries. What finds no slot is left to `retries`."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        dispatcher: Dispatcher,
        slots: Slots,
        retries: Retries,
        alarm: Alarm,
        terms: Terms,
    ) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._slots = slots
        self._retries = retries
        self._alarm = alarm
        self._terms = terms

    async def register(self, owed: Sequence[Owed], clock: Callable[[], datetime]) -> list[Attempt]:
        """Commit a delivery for each that is new; return the attempts that were opened, which must now be started."""
        async with self._slots.claiming:
            now = clock()  # not before the lock is held: the leases begin now
            newborns = [self._newborn(each, now) for each in owed]
            reserved = {newborn.row["id"]: newborn.attempt for newborn in newborns if newborn.attempt}
            opened: list[Attempt] = []
            try:
                opened = await self._commit([newborn.row for newborn in newborns], reserved, now)
            finally:
                # An event that came twice, or a transaction that failed, leaves slots that nobody uses.
                born = {attempt.callback_id for attempt in opened}
                for callback_id in reserved.keys() - born:
                    self._slots.give_back(reserved[callback_id].host)
        self._wake_for(len(owed) - len(reserved), now)
        return opened

    async def _commit(
        self, rows: Sequence[dict[str, Any]], reserved: Mapping[UUID, Attempt], now: datetime
    ) -> list[Attempt]:
        async with self._engine.begin() as tx:
            born = await insert_deliveries(tx, rows)
            opened = [attempt for callback_id, attempt in reserved.items() if callback_id in born]
            await open_attempts(tx, opened, now)
        return opened

    def _newborn(self, owed: Owed, now: datetime) -> _Newborn:
        event, host, first_wait_s = owed.event, host_of(owed.url), self._terms.schedule_s[0]
        claims = first_wait_s == 0 and self._dispatcher.room() > 0 and self._slots.take(host)
        leased_until = now + timedelta(seconds=self._terms.lease_s) if claims else None
        row = {
            "id": uuid7(),
            "eventId": event.event_id,
            "type": event.type,
            "sessionId": event.session_id,
            "requestId": event.request_id,
            "client": event.client,
            "url": owed.url,
            "host": host,
            "body": event.body,
            "state": str(State.PENDING),
            "attemptCount": int(claims),
            "nextAttemptAt": now + timedelta(seconds=first_wait_s),
            "leasedUntil": leased_until,
            "expiresAt": now + timedelta(seconds=self._terms.expires_s),
            "createdAt": now,
        }
        return _Newborn(row, None if leased_until is None else _first_attempt(row, leased_until))

    def _wake_for(self, unclaimed_count: int, now: datetime) -> None:
        if not unclaimed_count:
            return
        if self._terms.schedule_s[0] == 0:
            self._retries.more_is_due()
        else:
            self._alarm.ring_at(now + timedelta(seconds=self._terms.schedule_s[0]))


def _first_attempt(row: Mapping[str, Any], leased_until: datetime) -> Attempt:
    return Attempt(
        callback_id=row["id"],
        event_id=row["eventId"],
        number=1,
        url=row["url"],
        host=row["host"],
        body=row["body"],
        expires_at=row["expiresAt"],
        leased_until=leased_until,
    )

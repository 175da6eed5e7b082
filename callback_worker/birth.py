"""An event becomes a delivery: rows in one transaction, claimed at birth as far as there are slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from callback_worker.delivery import Attempt, State, Terms
from callback_worker.destination import host_of
from callback_worker.dispatch import Dispatcher
from callback_worker.patience import Patience
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


class Births:
    """Makes deliveries. What finds no slot is left to `retries`."""

    def __init__(
        self,
        patience: Patience,
        *,
        dispatcher: Dispatcher,
        slots: Slots,
        retries: Retries,
        alarm: Alarm,
        terms: Terms,
    ) -> None:
        self._patience = patience
        self._dispatcher = dispatcher
        self._slots = slots
        self._retries = retries
        self._alarm = alarm
        self._terms = terms

    async def register(
        self, owed: Sequence[Owed], clock: Callable[[], datetime], *, wanted: Callable[[], bool]
    ) -> list[Attempt]:
        """Commit a delivery for each that is new; return the attempts that were opened, which must now be started.

        Waits through outages; raises Unavailable once it is not `wanted` any more.
        """
        return await self._patience.until_done(lambda: self._register(owed, clock), what="events", wanted=wanted)

    async def _register(self, owed: Sequence[Owed], clock: Callable[[], datetime]) -> list[Attempt]:
        async with self._slots.claiming:
            now = clock()  # not before the lock is held: the leases begin now
            reserved: dict[UUID, Attempt] = {}
            opened: list[Attempt] = []
            try:
                rows = [self._newborn(each, now, reserved) for each in owed]
                opened = await self._commit(rows, reserved, now)
            finally:
                # An event that came twice, or work that failed, leaves slots that nobody uses.
                born = {attempt.callback_id for attempt in opened}
                for callback_id in reserved.keys() - born:
                    self._slots.give_back(reserved[callback_id].host)
        self._wake_for(len(owed) - len(reserved), now)
        return opened

    async def _commit(
        self, rows: Sequence[dict[str, Any]], reserved: Mapping[UUID, Attempt], now: datetime
    ) -> list[Attempt]:
        async with self._patience.engine.begin() as tx:
            born = await insert_deliveries(tx, rows)
            opened = [attempt for callback_id, attempt in reserved.items() if callback_id in born]
            await open_attempts(tx, opened, now)
        return opened

    def _newborn(self, owed: Owed, now: datetime, reserved: dict[UUID, Attempt]) -> dict[str, Any]:
        """Return the row; where a slot is free, claim it and add its first attempt to `reserved`."""
        event, first_wait_s = owed.event, self._terms.schedule_s[0]
        row: dict[str, Any] = {
            "id": uuid7(),
            "eventId": event.event_id,
            "type": event.type,
            "sessionId": event.session_id,
            "requestId": event.request_id,
            "client": event.client,
            "url": owed.url,
            "host": host_of(owed.url),
            "body": event.body,
            "state": str(State.PENDING),
            "attemptCount": 0,
            "nextAttemptAt": now + timedelta(seconds=first_wait_s),
            "leasedUntil": None,
            "expiresAt": now + timedelta(seconds=self._terms.expires_s),
            "createdAt": now,
        }
        attempt = _first_attempt(row, now + timedelta(seconds=self._terms.lease_s))
        # Last, so that nothing can fail between the slot and its owner.
        if first_wait_s == 0 and self._dispatcher.room() > 0 and self._slots.take(attempt.host):
            row["attemptCount"], row["leasedUntil"] = attempt.number, attempt.leased_until
            reserved[attempt.callback_id] = attempt
        return row

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

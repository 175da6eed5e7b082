"""An event becomes a delivery: rows in one transaction, claimed at birth as far as slots and breakers let it through.

One to a URL that is known to be gone is born failed, without an attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from callback_worker.delivery import Attempt, Terms
from callback_worker.dispatch import Dispatcher
from callback_worker.gone import end_gone, tell_gone
from callback_worker.hosts import Hosts
from callback_worker.patience import Patience
from callback_worker.retries import Retries
from callback_worker.slots import Slots
from callback_worker.store import insert_deliveries, open_attempts
from callback_worker.subscriptions import find_subscriptions, owner_of, urls_of
from shared import crash_points
from shared.callback_url import parse_callback_url
from shared.callbacks import State
from shared.events import ReceivedEvent
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class Owed:
    """An event and the URL that it is owed to."""

    event: ReceivedEvent
    url: str


class Births:
    """Makes deliveries. What finds no slot, or an open breaker, is left to `retries`."""

    def __init__(
        self,
        patience: Patience,
        *,
        dispatcher: Dispatcher,
        slots: Slots,
        hosts: Hosts,
        retries: Retries,
        terms: Terms,
    ) -> None:
        self._patience = patience
        # One SELECT is a snapshot by itself: no BEGIN and ROLLBACK around it.
        self._reader = patience.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._dispatcher = dispatcher
        self._slots = slots
        self._hosts = hosts
        self._retries = retries
        self._terms = terms

    async def register(
        self, events: Sequence[ReceivedEvent], clock: Callable[[], datetime], *, wanted: Callable[[], bool]
    ) -> list[Attempt]:
        """Commit a delivery for each event and URL that is new; return the opened attempts, which must now be started.

        Waits through outages; raises Unavailable once it is not `wanted` any more.
        """
        return await self._patience.until_done(lambda: self._register(events, clock), what="events", wanted=wanted)

    async def _register(self, events: Sequence[ReceivedEvent], clock: Callable[[], datetime]) -> list[Attempt]:
        owed = await self._owed(events)
        if not owed:
            return []
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
                    self._slots.give_back(reserved[callback_id].destination)
        self._wake_for(rows, now)
        return opened

    async def _owed(self, events: Sequence[ReceivedEvent]) -> list[Owed]:
        """Return where each event goes: to its own URL, and to its client's subscriptions as they are now."""
        async with self._reader.connect() as tx:
            subscriptions = await find_subscriptions(tx, {owner_of(event) for event in events})
        return [Owed(event, url) for event in events for url in urls_of(event, subscriptions)]

    async def _commit(
        self, rows: Sequence[dict[str, Any]], reserved: Mapping[UUID, Attempt], now: datetime
    ) -> list[Attempt]:
        async with self._patience.engine.begin() as tx:
            born = await insert_deliveries(tx, rows)
            gone = await end_gone(tx, born)
            born -= gone
            opened = [attempt for callback_id, attempt in reserved.items() if callback_id in born]
            await open_attempts(tx, opened, now)
            crash_points.reach("callback_worker.before_commit")
        tell_gone(gone)
        return opened

    def _newborn(self, owed: Owed, now: datetime, reserved: dict[UUID, Attempt]) -> dict[str, Any]:
        """Return the row; where a slot is free, claim it and add its first attempt to `reserved`."""
        event, first_wait_s = owed.event, self._terms.schedule_s[0]
        host, destination = _addressed_to(owed.url)
        row: dict[str, Any] = {
            "id": uuid7(now),
            "eventId": event.event_id,
            "type": event.type,
            "sessionId": event.session_id,
            "requestId": event.request_id,
            "client": event.client,
            "url": owed.url,
            "host": host,
            "destination": destination,
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
        is_open = self._hosts.open_until(destination) is not None
        if first_wait_s == 0 and not is_open and self._dispatcher.room() > 0 and self._slots.take(destination):
            row["attemptCount"], row["leasedUntil"] = attempt.number, attempt.leased_until
            reserved[attempt.callback_id] = attempt
        return row

    def _wake_for(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Let what was not claimed be claimed in its time; what waits for a breaker needs nobody awake before that."""
        if self._terms.schedule_s[0] > 0:
            self._retries.due_at(now + timedelta(seconds=self._terms.schedule_s[0]))
        elif any(row["leasedUntil"] is None and not self._rests(row["destination"], now) for row in rows):
            self._retries.more_is_due()

    def _rests(self, destination: str, now: datetime) -> bool:
        until = self._hosts.open_until(destination)
        return until is not None and until > now


def _addressed_to(url: str) -> tuple[str, str]:
    """Return host, and host and port; empty for a URL that no attempt can be made to."""
    try:
        target = parse_callback_url(url)
    except ValueError:
        return "", ""
    name = f"[{target.host}]" if ":" in target.host else target.host
    return target.host, f"{name}:{target.port}"


def _first_attempt(row: Mapping[str, Any], leased_until: datetime) -> Attempt:
    return Attempt(
        callback_id=row["id"],
        event_id=row["eventId"],
        number=1,
        client=row["client"],
        url=row["url"],
        destination=row["destination"],
        body=row["body"],
        expires_at=row["expiresAt"],
        leased_until=leased_until,
    )

"""What all workers know of failing hosts, in Postgres: rows that `breaker` decides about, and a worker's view of them.

A host is a destination, a name and a port. A row is locked while its attempts' results are written, so that every
failure counts once, wherever it was seen; healthy hosts have no row and cost no statement.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callback_worker import metrics
from callback_worker.breaker import WINDOW_S, Health, Sign, after, is_failure
from callback_worker.store import Closing
from shared.logs import get_logger

log = get_logger(__name__)

# A worker's view; of more failing hosts than that, new deliveries are tried at once, as if they were healthy.
KNOWN_MOST = 10_000
# A host that nobody has had anything for since its breaker would have let a probe through starts anew.
UNPROBED_S = 600.0
SWEEP_MOST = 1000

_COLUMNS = """destination, "windowEndsAt", "successCount", "failureCount", "failingIds", "streakCount", "streakBeganAt",
    "openCount", "openUntil", "probeId", "probeUntil" """
_LOCK = text(f"""
    SELECT {_COLUMNS} FROM callback_hosts WHERE destination = ANY (CAST(:destinations AS text[]))
    ORDER BY destination FOR UPDATE""")  # noqa: S608 - a constant
_WRITE = text(f"""
    INSERT INTO callback_hosts ({_COLUMNS})
    SELECT destination, window_ends_at, success_count, failure_count, CAST(failing_ids AS uuid[]), streak_count,
        streak_began_at, open_count, open_until, probe_id, probe_until
    FROM unnest(CAST(:destinations AS text[]), CAST(:window_ends_at AS timestamptz[]),
        CAST(:success_count AS integer[]), CAST(:failure_count AS integer[]), CAST(:failing_ids AS text[]),
        CAST(:streak_count AS integer[]), CAST(:streak_began_at AS timestamptz[]), CAST(:open_count AS integer[]),
        CAST(:open_until AS timestamptz[]), CAST(:probe_id AS uuid[]), CAST(:probe_until AS timestamptz[]))
    AS h (destination, window_ends_at, success_count, failure_count, failing_ids, streak_count, streak_began_at,
        open_count, open_until, probe_id, probe_until)
    ON CONFLICT (destination) DO UPDATE SET "windowEndsAt" = excluded."windowEndsAt",
        "successCount" = excluded."successCount", "failureCount" = excluded."failureCount",
        "failingIds" = excluded."failingIds", "streakCount" = excluded."streakCount",
        "streakBeganAt" = excluded."streakBeganAt", "openCount" = excluded."openCount",
        "openUntil" = excluded."openUntil", "probeId" = excluded."probeId", "probeUntil" = excluded."probeUntil" """)  # noqa: S608 - a constant
_FORGET = text("DELETE FROM callback_hosts WHERE destination = ANY (CAST(:destinations AS text[]))")
_RELEASE = text("""
    WITH released AS (
        SELECT destination FROM callback_hosts
        WHERE "probeId" = ANY (CAST(:ids AS uuid[])) AND "openUntil" IS NOT NULL ORDER BY destination FOR UPDATE)
    UPDATE callback_hosts AS h SET "probeId" = NULL, "probeUntil" = NULL
    FROM released WHERE h.destination = released.destination""")
# The open ones first: those are what the view is for.
_READ = text("""
    SELECT destination, greatest("openUntil", "probeUntil") AS until
    FROM callback_hosts ORDER BY "openUntil" DESC NULLS LAST LIMIT :most""")
_SWEEP = text("""
    DELETE FROM callback_hosts WHERE destination IN (
        SELECT destination FROM callback_hosts
        WHERE ("openUntil" IS NULL AND "windowEndsAt" <= :window_before) OR "openUntil" <= :open_before
        LIMIT :most FOR UPDATE SKIP LOCKED)""")


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a host's health; None is nothing against it."""

    destination: str
    before: Health | None
    after: Health | None


class Hosts:
    """This worker's view of the failing hosts, a poll old at most."""

    def __init__(self) -> None:
        # Until when each is open, None for one that fails and is not.
        self._known: dict[str, datetime | None] = {}
        metrics.hosts_open.set_function(lambda: sum(until is not None for until in self._known.values()))

    def open_until(self, destination: str) -> datetime | None:
        """Return when the host may be probed, or probed again, where its breaker is open, else None."""
        return self._known.get(destination)

    async def note(self, tx: AsyncConnection, closings: Iterable[Closing], now: datetime) -> list[Change]:
        """Write what these results, each closed in this transaction, say about their hosts; return what changed.

        The rows are locked, in order, and after the deliveries: as everywhere.
        """
        signs = self._telling(closings)
        if not signs:
            return []
        rows = await tx.execute(_LOCK, {"destinations": sorted(signs)})
        known = {row.destination: _health(row) for row in rows}
        changes = []
        for destination in sorted(signs):
            before = known.get(destination)
            following = after(before, signs[destination], now=now, chance=random.random())
            if following != before:
                changes.append(Change(destination, before, following))
        await _write(tx, [(each.destination, each.after) for each in changes if each.after is not None])
        if forgotten := [each.destination for each in changes if each.after is None]:
            await tx.execute(_FORGET, {"destinations": forgotten})
        return changes

    def apply(self, changes: Iterable[Change]) -> list[datetime | None]:
        """Take committed changes into the view and tell of them; return when hosts may be sent to, None for at once."""
        due: list[datetime | None] = []
        for change in changes:
            until = None if change.after is None else change.after.open_until
            if change.after is None:
                self._known.pop(change.destination, None)
            else:
                self._known[change.destination] = until
            was_until = None if change.before is None else change.before.open_until
            if until != was_until:
                _tell(change)
                due.append(until)
        return due

    async def refresh(self, tx: AsyncConnection, now: datetime) -> None:
        """Read the hosts anew, and drop those that have not failed for long."""
        window_before = now - timedelta(seconds=WINDOW_S)
        open_before = now - timedelta(seconds=UNPROBED_S)
        await tx.execute(_SWEEP, {"window_before": window_before, "open_before": open_before, "most": SWEEP_MOST})
        rows = await tx.execute(_READ, {"most": KNOWN_MOST})
        self._known = {row.destination: row.until for row in rows}

    def _telling(self, closings: Iterable[Closing]) -> dict[str, list[Sign]]:
        """Return by host what the results say, of those hosts that fail or have failed."""
        signs: dict[str, list[Sign]] = {}
        telling: set[str] = set()
        for closing in closings:
            attempt, result = closing.attempt, closing.result
            sign = Sign(attempt.callback_id, is_failure(result.outcome), result.duration_ms / 1000)
            signs.setdefault(attempt.destination, []).append(sign)
            # A probe may be of a host that the view does not have yet.
            if sign.failed or attempt.is_probe:
                telling.add(attempt.destination)
        return {each: said for each, said in signs.items() if each in telling or each in self._known}


async def release_probes(tx: AsyncConnection, ids: Sequence[Any]) -> None:
    """Let others probe where one of these deliveries was to; it was not sent."""
    await tx.execute(_RELEASE, {"ids": list(ids)})


async def _write(tx: AsyncConnection, rows: Sequence[tuple[str, Health]]) -> None:
    if not rows:
        return
    healths = [health for _, health in rows]
    parameters: Mapping[str, list[Any]] = {
        "destinations": [destination for destination, _ in rows],
        "window_ends_at": [each.window_ends_at for each in healths],
        "success_count": [each.success_count for each in healths],
        "failure_count": [each.failure_count for each in healths],
        # An array of arrays would be unnested to the bottom.
        "failing_ids": ["{" + ",".join(map(str, each.failing_ids)) + "}" for each in healths],
        "streak_count": [each.streak_count for each in healths],
        "streak_began_at": [each.streak_began_at for each in healths],
        "open_count": [each.open_count for each in healths],
        "open_until": [each.open_until for each in healths],
        "probe_id": [each.probe_id for each in healths],
        "probe_until": [each.probe_until for each in healths],
    }
    await tx.execute(_WRITE, parameters)


def _health(row: Any) -> Health:
    return Health(
        window_ends_at=row.windowEndsAt,
        success_count=row.successCount,
        failure_count=row.failureCount,
        failing_ids=tuple(row.failingIds),
        streak_count=row.streakCount,
        streak_began_at=row.streakBeganAt,
        open_count=row.openCount,
        open_until=row.openUntil,
        probe_id=row.probeId,
        probe_until=row.probeUntil,
    )


def _tell(change: Change) -> None:
    if change.after is None or change.after.open_until is None:
        log.warning("host_closed", destination=change.destination, next="it is sent to again")
    else:
        log.warning(
            "host_opened",
            destination=change.destination,
            probe_count=change.after.open_count - 1,
            open_until=change.after.open_until.isoformat(),
            next="its deliveries wait, but for one probe at a time",
        )

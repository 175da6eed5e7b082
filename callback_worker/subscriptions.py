"""Standing subscriptions: who gets which events beside their own callback URLs. Functions over an open transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.callback_commands import SetSubscription
from shared.callbacks import ANONYMOUS
from shared.events import ReceivedEvent

# Each multiplies the client's callbacks; a bus of its own serves whoever has more receivers.
SUBSCRIPTIONS_MOST = 20

# Two workers that set two names of one client must not both find room for a last one.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('callback_subscriptions ' || :client, 0))")
_SET = text("""
    INSERT INTO callback_subscriptions (client, name, url, types, paused, "createdAt", "updatedAt")
    SELECT CAST(:client AS varchar), CAST(:name AS varchar), CAST(:url AS varchar), CAST(:types AS jsonb),
        CAST(:paused AS boolean), CAST(:now AS timestamptz), CAST(:now AS timestamptz)
    WHERE (SELECT count(*) FROM callback_subscriptions WHERE client = :client AND name <> :name) < :most
    ON CONFLICT (client, name) DO UPDATE SET url = excluded.url, types = excluded.types, paused = excluded.paused,
        "updatedAt" = excluded."updatedAt"
    RETURNING name""")
_REMOVE = text("DELETE FROM callback_subscriptions WHERE client = :client AND name = :name")
_FIND = text("""
    SELECT client, url, types FROM callback_subscriptions
    WHERE client = ANY (CAST(:clients AS text[])) AND NOT paused ORDER BY client, name""")


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where events go; `types` None is events of any type."""

    url: str
    types: frozenset[str] | None


Subscriptions = Mapping[str, Sequence[Subscription]]


async def set_subscription(tx: AsyncConnection, client: str, command: SetSubscription, now: datetime) -> bool:
    """Set it; return False where the client has too many others."""
    await tx.execute(_LOCK, {"client": client})
    parameters = {
        "client": client,
        "name": command.name,
        "url": command.url,
        "types": None if command.types is None else orjson.dumps(command.types).decode(),
        "paused": command.paused,
        "now": now,
        "most": SUBSCRIPTIONS_MOST,
    }
    return (await tx.execute(_SET, parameters)).one_or_none() is not None


async def remove_subscription(tx: AsyncConnection, client: str, name: str) -> None:
    """Remove it, if it is there."""
    await tx.execute(_REMOVE, {"client": client, "name": name})


async def find_subscriptions(tx: AsyncConnection, clients: Collection[str]) -> Subscriptions:
    """Return by client what is not paused: one query, however many clients."""
    found: dict[str, list[Subscription]] = {}
    for client, url, types in await tx.execute(_FIND, {"clients": list(clients)}):
        found.setdefault(client, []).append(Subscription(url, None if types is None else frozenset(types)))
    return found


def owner_of(event: ReceivedEvent) -> str:
    """Return the client whose subscriptions the event goes to."""
    return event.client or ANONYMOUS


def urls_of(event: ReceivedEvent, subscriptions: Subscriptions) -> list[str]:
    """Return where the event goes, each URL once: its own first."""
    own = [] if event.callback_url is None else [event.callback_url]
    standing = subscriptions.get(owner_of(event), ())
    matching = [each.url for each in standing if each.types is None or event.type in each.types]
    return list(dict.fromkeys(own + matching))

"""Who may do what: the least rights of each process, in the database and on the broker."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.topology import (
    CALLBACK_COMMANDS,
    CALLBACK_EVENTS,
    COMMANDS,
    DEAD,
    EVENTS,
    PAYMENT_COMMANDS,
    SESSION_COMMANDS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Verbs by table; exchanges to publish to; queues to consume. Nobody configures anything."""

    tables: Mapping[str, tuple[str, ...]]
    publishes_to: tuple[str, ...]
    consumes: tuple[str, ...] = ()


# A table is one line, with the verbs of the statements that the process really has; FOR UPDATE counts as UPDATE.
GATEWAY = Rights(
    tables={
        "charging_sessions": ("SELECT",),
        "charging_session_requests": ("SELECT",),
        "inbox": ("SELECT",),
        "drivers": ("SELECT",),
        "stations": ("SELECT",),
        "tariffs": ("SELECT",),
        "sandbox_links": ("SELECT",),
        "callback_deliveries": ("SELECT",),
        "callback_attempts": ("SELECT",),
        "callback_subscriptions": ("SELECT",),
        "callback_inbox": ("SELECT",),
    },
    publishes_to=(COMMANDS,),
)
SESSION_WORKER = Rights(
    tables={
        "charging_sessions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "charging_session_requests": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "inbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "parked_commands": ("SELECT", "INSERT", "DELETE"),
        "outbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "meter_values": ("SELECT", "INSERT", "DELETE"),
        "session_adjustments": ("SELECT", "INSERT", "DELETE"),
        "drivers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "stations": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "tariffs": ("SELECT", "INSERT", "UPDATE"),
        "payments": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "payment_links": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "payment_refunds": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "sandbox_links": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "sandbox_refunds": ("SELECT", "INSERT", "DELETE"),
        # A session with a callback that waits is not purged.
        "callback_deliveries": ("SELECT",),
    },
    publishes_to=(EVENTS, DEAD),
    consumes=(SESSION_COMMANDS, PAYMENT_COMMANDS),
)
CALLBACK_WORKER = Rights(
    tables={
        "callback_deliveries": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        # Attempts are deleted with their delivery, by the foreign key, which needs no right.
        "callback_attempts": ("SELECT", "INSERT", "UPDATE"),
        "callback_hosts": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "callback_subscriptions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "callback_inbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "callback_redeliveries": ("SELECT", "INSERT", "DELETE"),
        "callback_redelivery_jobs": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    },
    publishes_to=(DEAD,),
    consumes=(CALLBACK_EVENTS, CALLBACK_COMMANDS),
)


@dataclass(frozen=True, slots=True)
class Login:
    """A role of the database and a user of the broker, under one name."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """The logins to make; None leaves that process to whatever URL it is given."""

    gateway: Login | None
    session_worker: Login | None
    callback_worker: Login | None

    def named(self) -> list[tuple[Login, Rights]]:
        pairs = [
            (self.gateway, GATEWAY),
            (self.session_worker, SESSION_WORKER),
            (self.callback_worker, CALLBACK_WORKER),
        ]
        return [(login, rights) for login, rights in pairs if login is not None]

"""Who may do what: the least rights of each process, in the database and on the broker."""

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

SESSION_TABLES = (
    "charging_sessions", "charging_session_requests", "inbox", "parked_commands", "outbox", "meter_values",
    "session_adjustments", "drivers", "stations", "tariffs",
)  # fmt: skip
CALLBACK_TABLES = ("callback_deliveries", "callback_attempts")


@dataclass(frozen=True, slots=True)
class Rights:
    """Tables to read and to write; exchanges to publish to; queues to consume. Nobody configures anything."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    publishes_to: tuple[str, ...] = ()
    consumes: tuple[str, ...] = ()


GATEWAY = Rights(reads=SESSION_TABLES + CALLBACK_TABLES, publishes_to=(COMMANDS,))
SESSION_WORKER = Rights(
    writes=SESSION_TABLES, publishes_to=(EVENTS, DEAD), consumes=(SESSION_COMMANDS, PAYMENT_COMMANDS)
)
CALLBACK_WORKER = Rights(writes=CALLBACK_TABLES, publishes_to=(DEAD,), consumes=(CALLBACK_EVENTS, CALLBACK_COMMANDS))


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

"""Exchanges, queues and bindings: the names and arguments that provisioning makes and every process counts on.

The arguments of a queue are frozen at its birth, so they hold nothing that anybody would tune.
"""

from dataclasses import dataclass

COMMANDS = "charging.commands"
PARTNERS = "charging.partners"
EVENTS = "charging.events"
DEAD = "charging.dead"
UNROUTED = "charging.unrouted"

SESSION_COMMANDS = "session_worker.commands"
PAYMENT_COMMANDS = "session_worker.payments"
CALLBACK_EVENTS = "callback_worker.events"
CALLBACK_COMMANDS = "callback_worker.commands"
UNROUTED_QUEUE = "unrouted"

# RabbitMQ 3.10 has no limit (a message that kills its worker would loop for ever), 4.x has 20, and every restart of a
# worker counts for all it had prefetched. 100 outlives a rolling restart and still ends a poison message.
DELIVERY_LIMIT = 100
# A queue that people look into: each look at a message counts as a delivery, also in the management UI, and RabbitMQ 4
# deletes at the 21st where nothing else is said. -1 is no limit there, and deletes at the first on 3.10.
LOOKS_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange; `alternate` takes what no queue is bound for."""

    name: str
    kind: str
    alternate: str | None = None

    @property
    def arguments(self) -> dict[str, str | int]:
        return {"alternate-exchange": self.alternate} if self.alternate else {}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue with the bindings (exchange, routing key) that fill it."""

    name: str
    bindings: tuple[tuple[str, str], ...]
    dead_letters: bool = False

    @property
    def arguments(self) -> dict[str, str | int]:
        """Dead-lettering is at-least-once, which needs reject-publish; the default loses messages silently."""
        plain: dict[str, str | int] = {"x-queue-type": "quorum"}
        if not self.dead_letters:
            return plain | {"x-delivery-limit": LOOKS_LIMIT}
        return plain | {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD,
            "x-dead-letter-routing-key": self.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }


def dead_letter_queue(queue: str) -> str:
    """Return the name of the queue where `queue`'s dead letters wait for a person."""
    return f"{queue}.dead"


EXCHANGES = (
    Exchange(UNROUTED, "fanout"),
    Exchange(DEAD, "direct"),
    Exchange(COMMANDS, "topic"),  # no alternate exchange: it would cancel `mandatory`
    Exchange(PARTNERS, "topic", alternate=UNROUTED),
    Exchange(EVENTS, "topic"),
)

WORK_QUEUES = (
    Queue(SESSION_COMMANDS, ((COMMANDS, "session.#"), (PARTNERS, "session.#")), dead_letters=True),
    Queue(PAYMENT_COMMANDS, ((COMMANDS, "payment.#"), (PARTNERS, "payment.#")), dead_letters=True),
    Queue(CALLBACK_EVENTS, ((EVENTS, "#"),), dead_letters=True),
    Queue(CALLBACK_COMMANDS, ((COMMANDS, "callback.#"),), dead_letters=True),
)

QUEUES = (
    *(Queue(dead_letter_queue(queue.name), ((DEAD, queue.name),)) for queue in WORK_QUEUES),
    Queue(UNROUTED_QUEUE, ((UNROUTED, "#"),)),
    *WORK_QUEUES,
)

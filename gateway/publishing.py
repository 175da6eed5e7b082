"""From a command to a message that the broker has on disk, or to the 503 that says what else became of it."""

from typing import assert_never
from uuid import UUID

from gateway import metrics
from gateway.auth import Caller
from gateway.faults import FaultLog
from gateway.problems import Kind, Problem
from shared.broker.publisher import Outcome, Publisher
from shared.clock import now_utc
from shared.commands import CLIENT, PRIVILEGED, Command, canonical_body
from shared.messages import Message, Outgoing
from shared.topology import COMMANDS

# Leaves time to answer within 2 s when the broker does not confirm.
PUBLISH_TIMEOUT_S = 1.5
# More unconfirmed publishes only cost CPU and memory: the broker is then behind, and callers should hear it.
MAX_IN_FLIGHT = 512


class CommandPublisher:
    """Publishes the commands of all endpoints; what goes wrong is logged and counted in one place."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._faults = FaultLog()

    async def publish(self, command: Command, id_of_message: UUID, caller: Caller, *, trace: dict[str, object]) -> None:
        """Return once the broker has confirmed; raise the 503 that says what else happened."""
        if self._publisher.in_flight >= MAX_IN_FLIGHT:
            raise Problem(Kind.OVERLOADED, f"{MAX_IN_FLIGHT} commands already wait for the broker.")
        message = _message(command, id_of_message, caller, trace)
        outgoing = Outgoing(exchange=COMMANDS, routing_key=command.TYPE, message=message)
        with metrics.in_flight.track_inprogress():
            (outcome,) = await self._publisher.publish([outgoing], timeout_s=PUBLISH_TIMEOUT_S)
        metrics.publish_count(outcome).inc()
        if outcome is not Outcome.CONFIRMED:
            self._faults.note(outcome, message)
            raise _unpublished(outcome, self._publisher.fault())


def _message(command: Command, id_of_message: UUID, caller: Caller, trace: dict[str, object]) -> Message:
    session_id = getattr(command, "session_id", None)
    return Message(
        body=canonical_body(command),
        message_id=str(id_of_message),
        type=command.TYPE,
        timestamp=now_utc(),
        correlation_id=str(session_id or id_of_message),
        headers={CLIENT: caller.client, PRIVILEGED: caller.is_privileged, **trace},
    )


def _unpublished(outcome: Outcome, fault: str | None) -> Problem:
    match outcome:
        case Outcome.UNKNOWN:
            detail = (
                "The broker did not confirm; the command may have been taken all the same. One key is applied once."
            )
            return Problem(Kind.OUTCOME_UNKNOWN, detail)
        case Outcome.NOT_SENT:
            return Problem(Kind.BROKER_UNAVAILABLE, f"Nothing was sent: {fault or 'the connection has just ended'}.")
        case Outcome.REFUSED:
            return Problem(Kind.BROKER_UNAVAILABLE, "The queue is full; nothing was stored.")
        case Outcome.UNROUTABLE:
            return Problem(Kind.NOT_PROVISIONED, "No queue takes this command. Run: python -m ops provision")
        case Outcome.CONFIRMED:
            raise AssertionError(outcome)
    assert_never(outcome)

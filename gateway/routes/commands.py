"""The POSTs: one ASGI endpoint for every command. An acknowledgement means that the broker has the message on disk.

It stands outside FastAPI's request plumbing, which would cost three times the rest; errors still end in its handlers.
"""

from typing import assert_never
from uuid import UUID

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.auth import ApiKey, Caller, identify
from gateway.commands import COMMANDS, CommandRoute
from gateway.faults import FaultLog
from gateway.incoming import ClientGone, check_media_type, message_id, parse_body, read_body, trace_headers
from gateway.problems import Kind, Problem
from shared.broker.publisher import Outcome, Publisher
from shared.clock import now_utc
from shared.commands import CLIENT, PRIVILEGED, SessionCommand, canonical_body
from shared.messages import Message, Outgoing
from shared.topology import COMMANDS as COMMANDS_EXCHANGE

# Leaves time to answer within 2 s when the broker does not confirm.
PUBLISH_TIMEOUT_S = 1.5
# More unconfirmed publishes only cost CPU and memory: the broker is then behind, and callers should hear it.
MAX_IN_FLIGHT = 512


def command_routes(publisher: Publisher, keys: tuple[ApiKey, ...] | None) -> list[Route]:
    """Return a route per command."""
    faults = FaultLog()
    return [
        Route(route.path, CommandEndpoint(route, publisher, keys, faults), methods=["POST"], name=route.body.TYPE)
        for route in COMMANDS
    ]


class CommandEndpoint:
    """One POST as an ASGI application."""

    def __init__(
        self, route: CommandRoute, publisher: Publisher, keys: tuple[ApiKey, ...] | None, faults: FaultLog
    ) -> None:
        self.path = route.path
        self._route = route
        self._publisher = publisher
        self._keys = keys
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        caller = identify(self._keys, headers)
        caller.require(self._route.scope)
        check_media_type(headers)
        id_of_message = message_id(headers, caller.client)
        try:
            body = await read_body(receive, headers)
        except ClientGone:
            return
        command = self._named(parse_body(body, self._route.body), id_of_message)
        self._refuse_privileged_fields(command, caller)
        message = _message(command, id_of_message, caller, trace_headers(headers))
        await self._publish(message)
        await self._acknowledge(command, id_of_message, send)

    def _named(self, command: SessionCommand, id_of_message: UUID) -> SessionCommand:
        named = self._route.named
        return command if named is None else command.model_copy(update={named: id_of_message})

    def _refuse_privileged_fields(self, command: SessionCommand, caller: Caller) -> None:
        for name in self._route.privileged_fields:
            if getattr(command, name) is not None and not caller.is_privileged:
                pointer = "/" + str(type(command).model_fields[name].alias)
                errors = [{"pointer": pointer, "detail": "needs the scope operator"}]
                raise Problem(Kind.FORBIDDEN, f"{pointer} needs the scope operator.", errors=errors)

    async def _publish(self, message: Message) -> None:
        """Return once the broker has confirmed; raise the 503 that says what else happened."""
        if self._publisher.in_flight >= MAX_IN_FLIGHT:
            raise Problem(Kind.OVERLOADED, f"{MAX_IN_FLIGHT} commands already wait for the broker.")
        assert message.type is not None
        outgoing = Outgoing(exchange=COMMANDS_EXCHANGE, routing_key=message.type, message=message)
        with metrics.in_flight.track_inprogress():
            (outcome,) = await self._publisher.publish([outgoing], timeout_s=PUBLISH_TIMEOUT_S)
        metrics.publish_count(outcome).inc()
        if outcome is not Outcome.CONFIRMED:
            self._faults.note(outcome, message)
            raise _unpublished(outcome, self._publisher.fault())

    async def _acknowledge(self, command: SessionCommand, id_of_message: UUID, send: Send) -> None:
        body = self._route.acknowledge(command)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if self._route.location is not None:
            headers.append((b"location", f"{self._route.location}/{id_of_message}".encode()))
        await send({"type": "http.response.start", "status": self._route.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _message(command: SessionCommand, id_of_message: UUID, caller: Caller, trace: dict[str, object]) -> Message:
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

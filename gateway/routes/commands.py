"""The commands: one ASGI endpoint for all of them. An acknowledgement means that the broker has the message on disk.

It stands outside FastAPI's request plumbing, which would cost three times the rest; errors still end in its handlers.
With `Prefer: wait=N` the answer is the outcome, where there is one in time.
"""

import time
from collections.abc import Coroutine, Mapping
from typing import Any, assert_never
from urllib.parse import quote
from uuid import UUID

import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.auth import ApiKey, Caller, identify
from gateway.command_route import CommandRoute, IdFrom
from gateway.commands import COMMANDS
from gateway.database import Database
from gateway.incoming import (
    ClientGone,
    Headers,
    check_media_type,
    message_id,
    name_in_path,
    parse_body,
    read_body,
    trace_headers,
    while_connected,
)
from gateway.outcomes import End, Outcomes
from gateway.preference import preferred_wait_s
from gateway.problems import Kind, Problem
from gateway.publishing import CommandPublisher
from gateway.waiting import shown
from shared.commands import Command, body_hash
from shared.errors import VoltlineError


def command_routes(
    commands: CommandPublisher, database: Database, outcomes: Outcomes, keys: tuple[ApiKey, ...] | None
) -> list[Route]:
    """Return a route per command. A name in a path may hold slashes, percent-encoded or not."""
    return [
        Route(
            _pattern(route),
            CommandEndpoint(route, commands, database, outcomes, keys),
            methods=[route.method],
            name=route.body.TYPE,
        )
        for route in COMMANDS
    ]


def _pattern(route: CommandRoute) -> str:
    return route.path.replace("}", ":uuid}" if route.id_from is IdFrom.ID_IN_PATH else ":path}")


class CommandEndpoint:
    """One command as an ASGI application."""

    def __init__(
        self,
        route: CommandRoute,
        commands: CommandPublisher,
        database: Database,
        outcomes: Outcomes,
        keys: tuple[ApiKey, ...] | None,
    ) -> None:
        self.path = route.path
        self._route = route
        self._commands = commands
        self._database = database
        self._outcomes = outcomes
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        caller = identify(self._keys, headers)
        caller.require(self._route.scope)
        id_of_message = message_id(headers, caller.client)
        try:
            command = await self._command(scope, receive, headers, id_of_message)
            self._refuse_privileged_fields(command, caller)
            if (found := await self._look_first(command, caller)) is not None:
                await _send(send, 200, orjson.dumps(found), [])
                return
            await self._commands.publish(command, id_of_message, caller, trace=trace_headers(headers))
            wait_s = preferred_wait_s(scope["headers"]) if b"prefer" in headers else 0
            if not wait_s:
                await self._acknowledge(command, send)
                return
            waiting = self._outcomes.end_of(id_of_message, body_hash(command), wait_s=wait_s)
            end = await _counted(scope, while_connected(receive, waiting))
        except ClientGone:
            return
        content = None if end is None else await self._shown(command, end, caller, wait_s)
        if content is None:
            await self._acknowledge(command, send)
        else:
            await _send(send, 200, orjson.dumps(content), [(b"preference-applied", b"wait=%d" % wait_s)])

    async def _command(self, scope: Scope, receive: Receive, headers: Headers, id_of_message: UUID) -> Command:
        route = self._route
        name = _key_in_path(route, scope)
        if not route.has_body:
            await read_body(receive, headers)
            return route.body.model_validate({route.key: name})
        check_media_type(headers)
        command = parse_body(await read_body(receive, headers), route.body)
        match route.id_from:
            case IdFrom.MESSAGE:
                return command.model_copy(update={route.key: id_of_message})
            case IdFrom.PATH | IdFrom.ID_IN_PATH:
                return command.model_copy(update={route.key: name})
            case IdFrom.BODY:
                return command
        assert_never(route.id_from)

    async def _look_first(self, command: Command, caller: Caller) -> Mapping[str, Any] | None:
        look = self._route.look_first
        return None if look is None else await look(self._database, command, caller)

    def _refuse_privileged_fields(self, command: Command, caller: Caller) -> None:
        for name in self._route.privileged_fields:
            if getattr(command, name) is not None and not caller.is_privileged:
                pointer = "/" + str(type(command).model_fields[name].alias)
                errors = [{"pointer": pointer, "detail": "needs the scope operator"}]
                raise Problem(Kind.FORBIDDEN, f"{pointer} needs the scope operator.", errors=errors)

    async def _acknowledge(self, command: Command, send: Send) -> None:
        route, headers = self._route, []
        if route.location is not None:
            headers = [(b"location", f"{route.location}/{quote(str(getattr(command, route.key)), safe='')}".encode())]
        await _send(send, route.status, route.acknowledge(command), headers)

    async def _shown(self, command: Command, end: End, caller: Caller, wait_s: int) -> dict[str, Any] | None:
        """Return what the outcome shows; None where the database has just gone away, or the resource with it."""
        try:
            return await shown(self._database, self._route, command, end, caller)
        except VoltlineError:
            return None
        except Problem as refusal:
            refusal.headers["Preference-Applied"] = f"wait={wait_s}"
            raise


def _key_in_path(route: CommandRoute, scope: Scope) -> str | UUID | None:
    match route.id_from:
        case IdFrom.PATH:
            return name_in_path(scope, route.parameter)
        case IdFrom.ID_IN_PATH:
            key: UUID = scope["path_params"][route.parameter]
            return key
        case IdFrom.MESSAGE | IdFrom.BODY:
            return None
    assert_never(route.id_from)


async def _counted(scope: Scope, waiting: Coroutine[Any, Any, End | None]) -> End | None:
    """Wait; count how it ended, and note how long it took."""
    began = time.perf_counter()
    result = "gone"
    try:
        end = await waiting
        result = "plain" if end is None else "applied" if end.is_applied else "refused"
        return end
    finally:
        metrics.wait_count(result).inc()
        scope[metrics.WAITED_S] = time.perf_counter() - began


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": own + headers})
    await send({"type": "http.response.body", "body": body})

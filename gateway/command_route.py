"""What every command is to the gateway: a method and path, a body, where its id comes from, what it acknowledges."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from pydantic import BeforeValidator
from pydantic.json_schema import SkipJsonSchema

from gateway.auth import Caller, Scope
from gateway.database import Database
from gateway.resources import Resource
from shared.commands import Command

# The sections of the documentation; the first is the seed's.
SESSION_TAG = "Session Management"
OPERATOR_TAG = "Operator"
PAYMENT_TAG = "Payments"
CALLBACK_TAG = "Callbacks"

_Type = TypeVar("_Type")
# What the message or the path names is an unknown key of the body like any other.
Ignored = SkipJsonSchema[Annotated[_Type | None, BeforeValidator(lambda _: None)]]
IgnoredId = Ignored[UUID]
IgnoredName = Ignored[str]

# What is looked at before a command is published: it may raise a Problem, or return what is answered instead.
Look = Callable[[Database, Any, Caller], Awaitable[Mapping[str, Any] | None]]


class IdFrom(Enum):
    """Who names what the command is about."""

    MESSAGE = "the message's own id"
    PATH = "the parameter of the path"
    ID_IN_PATH = "the UUID in the path"
    BODY = "the body"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRoute:
    """One command over REST.

    `key` is the field that names what it is about, and `id_from` says who fills it. `resource` is what a caller who
    waits is shown; without one it is deleted, or there is nothing to show. `location` is the address that the key is
    put behind.
    """

    method: str = "POST"
    path: str
    body: type[Command]
    has_body: bool = True
    status: int = 202
    key: str
    id_from: IdFrom = IdFrom.BODY
    acknowledge: Callable[[Any], bytes]
    resource: Resource | None
    look_first: Look | None = None
    location: str | None = None
    scope: Scope = Scope.SESSIONS
    privileged_fields: tuple[str, ...] = ()
    tag: str = SESSION_TAG
    summary: str
    description: str
    example: Mapping[str, Any] = field(default_factory=dict)
    acknowledgement_example: Mapping[str, Any] = field(default_factory=dict)
    operation_id: str | None = None

    @property
    def parameter(self) -> str:
        """The key's name on the wire."""
        return str(self.body.model_fields[self.key].alias)


def in_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON as the seeds print it: two spaces, no newline at the end."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)

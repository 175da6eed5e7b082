"""The commands about callbacks: what may be asked of the callback worker, as REST body and as queue message alike."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.alias_generators import to_camel

from shared.callbacks import Reason, State
from shared.commands import Command, JsonUuid, UtcTime, parse_as
from shared.events import EventType
from shared.fields import CallbackUrl, Identifier

# What may choose the callbacks of a redelivery instead of an id.
_FILTERS: Final = ("session_id", "request_id", "state", "reason", "host", "created_from", "created_to")
FILTER_KEYS: Final = tuple(map(to_camel, _FILTERS))

Types = Annotated[
    list[Annotated[EventType, Field(strict=False)]],
    Field(min_length=1, max_length=100),
    AfterValidator(lambda types: list(dict.fromkeys(types))),
]
# As deliveries have it: lower case, without the dot of a rooted name.
Host = Annotated[Identifier, AfterValidator(lambda host: host.lower().rstrip("."))]


class SetSubscription(Command):
    """Send every event of the client's sessions and requests to this URL, too; `types` null is events of any type."""

    TYPE: ClassVar[str] = "callback.set_subscription.v1"
    name: Identifier
    url: CallbackUrl
    types: Types | None = None
    paused: bool = False


class RemoveSubscription(Command):
    """Send no more events there. What is under way goes on."""

    TYPE: ClassVar[str] = "callback.remove_subscription.v1"
    name: Identifier


class Redeliver(Command):
    """Make one more attempt at a callback, or at each that the filter finds."""

    TYPE: ClassVar[str] = "callback.redeliver.v1"
    callback_id: JsonUuid | None = None
    session_id: JsonUuid | None = None
    request_id: JsonUuid | None = None
    state: Annotated[State | None, Field(strict=False)] = None
    reason: Annotated[Reason | None, Field(strict=False)] = None
    host: Host | None = None
    created_from: UtcTime | None = None
    created_to: UtcTime | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        has_filter = any(getattr(self, name) is not None for name in _FILTERS)
        if self.callback_id is None and not has_filter:
            raise ValueError(f"must name at least one of {', '.join(FILTER_KEYS)}")
        if self.callback_id is not None and has_filter:
            raise ValueError("callbackId must stand alone")
        if self.created_from is not None and self.created_to is not None and self.created_from >= self.created_to:
            raise ValueError("createdFrom must come before createdTo")
        return self


CallbackCommand = SetSubscription | RemoveSubscription | Redeliver

CALLBACK_COMMANDS: Final[Mapping[str, type[CallbackCommand]]] = {
    model.TYPE: model for model in (SetSubscription, RemoveSubscription, Redeliver)
}


def parse_callback_command(body: bytes, command_type: str) -> CallbackCommand:
    """Return the command of this queue type. Raises Rejected with the code that the dead letter will carry."""
    return parse_as(CALLBACK_COMMANDS, body, command_type)

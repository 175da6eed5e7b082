"""The JSON of callbacks and subscriptions, as the documentation shows it."""

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from gateway.schemas import Answer
from shared.callbacks import Reason, State
from shared.events import EventType


class RedeliveryAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    callback_id: UUID
    message: str


class RedeliveriesAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    message: str


class RedeliveryCount(Answer):
    """What a dry run finds."""

    count: int


class SubscriptionAccepted(Answer):
    """The broker has the command on disk."""

    success: Literal[True]
    name: str
    message: str


class SubscriptionDeleted(Answer):
    """The subscription is gone."""

    name: str
    deleted: Literal[True]


class Callback(Answer):
    """An event that is owed to a URL. `nextAttemptAt` is set while it is `PENDING`, `reason` where it `FAILED`."""

    callback_id: UUID
    event_id: UUID = Field(description="The `webhook-id`.")
    type: str = Field(examples=["session.completed"])
    session_id: UUID | None
    request_id: UUID | None
    url: str
    state: State
    reason: Reason | None
    attempt_count: int
    next_attempt_at: AwareDatetime | None
    created_at: AwareDatetime
    delivered_at: AwareDatetime | None


class CallbackPage(Answer):
    """Newest first. `nextCursor` is null on the last page."""

    items: list[Callback]
    next_cursor: str | None


class CallbackAttempt(Answer):
    """One HTTP request. `outcome` is open, delivered, ambiguous (its worker died), or the class of its failure."""

    number: int
    started_at: AwareDatetime
    duration_ms: int | None
    outcome: str = Field(examples=["delivered"])
    status_code: int | None
    error: str | None
    response_body: str | None = Field(description="Its first 16 KiB.")
    manual: bool


class CallbackWithAttempts(Callback):
    """A callback with the exact text that is signed and posted, and every attempt at it."""

    body: str
    attempts: list[CallbackAttempt]


class Subscription(Answer):
    """Where events go beside their sessions' own callback URLs; `types` null is events of any type."""

    name: str
    url: str
    types: list[EventType] | None
    paused: bool
    created_at: AwareDatetime
    updated_at: AwareDatetime


class SubscriptionPage(Answer):
    """All of them, by name: `nextCursor` is null."""

    items: list[Subscription]
    next_cursor: str | None

"""Where an event goes: its own URL and its client's matching subscriptions, each once."""

from typing import Any
from uuid import uuid4

import pytest

from callback_worker.subscriptions import Subscription, owner_of, urls_of
from shared.events import ReceivedEvent

ALL = Subscription("https://all.example/", None)
ENDS = Subscription("https://ends.example/", frozenset({"session.completed", "session.cancelled"}))
NOBODY = Subscription("https://payments.example/", frozenset({"payment.paid"}))


def event(**changes: Any) -> ReceivedEvent:
    defaults: dict[str, Any] = {
        "event_id": uuid4(), "type": "session.completed", "body": "{}", "session_id": None, "request_id": None,
        "callback_url": "https://own.example/", "client": "app",
    }  # fmt: skip
    return ReceivedEvent(**(defaults | changes))


def test_its_own_url_comes_first_then_what_matches() -> None:
    subscriptions = {"app": [ALL, ENDS, NOBODY], "other": [Subscription("https://other.example/", None)]}
    assert urls_of(event(), subscriptions) == ["https://own.example/", ALL.url, ENDS.url]
    assert urls_of(event(type="session.started"), subscriptions) == ["https://own.example/", ALL.url]
    assert urls_of(event(client="stranger"), subscriptions) == ["https://own.example/"]


def test_one_url_is_one_delivery() -> None:
    """Whoever names it twice, or subscribes to where his sessions' events go anyway."""
    subscriptions = {"app": [ALL, Subscription(ALL.url, ENDS.types)]}
    assert urls_of(event(callback_url=ALL.url), subscriptions) == [ALL.url]


def test_an_event_without_url_and_subscription_goes_nowhere() -> None:
    assert urls_of(event(callback_url=None), {}) == []


@pytest.mark.parametrize("client", [None, "", "anonymous"])
def test_events_of_nobody_are_the_anonymous_callers(client: str | None) -> None:
    assert owner_of(event(client=client)) == "anonymous"

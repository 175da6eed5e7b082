"""What may be asked of the callback worker, and what a filter becomes in SQL."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.__main__ import app
from shared.callback_commands import CALLBACK_COMMANDS, FILTER_KEYS, Redeliver, SetSubscription, parse_callback_command
from shared.callback_filter import conditions_of
from shared.commands import COMMANDS
from shared.errors import RejectCode, Rejected
from shared.events import EventType

ID = "0198c0de-0000-7000-8000-000000000001"
URL = "https://x.example/"


def parsed(command: type, body: dict[str, Any]) -> Any:
    return parse_callback_command(json.dumps(body).encode(), command.TYPE)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [
        {"callbackId": ID},
        {"callbackId": ID, "state": None, "unknown": 1},
        {"sessionId": ID},
        {"requestId": ID},
        {"state": "FAILED", "reason": "exhausted"},
        {"host": "x.example"},
        {"createdFrom": "2026-05-04T12:00:00Z"},
        {"createdTo": "2026-05-04T12:00:00+02:00"},
    ],
)
def test_a_redelivery_names_one_or_filters(body: dict[str, Any]) -> None:
    assert isinstance(parsed(Redeliver, body), Redeliver)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, ", ".join(FILTER_KEYS)),
        ({"callbackId": None}, ", ".join(FILTER_KEYS)),
        ({"callbackId": ID, "state": "FAILED"}, "stand alone"),
        ({"callbackId": "x"}, "/callbackId"),
        ({"state": "failed"}, "/state"),
        ({"reason": "tired"}, "/reason"),
        ({"host": " x"}, "/host"),
        ({"createdFrom": "2026-05-04T12:00:00Z", "createdTo": "2026-05-04T12:00:00Z"}, "createdFrom must come before"),
    ],
)
def test_any_other_is_set_aside(body: dict[str, Any], detail: str) -> None:
    """An empty filter above all: it would be everything."""
    with pytest.raises(Rejected, match=detail) as rejected:
        parsed(Redeliver, body)
    assert rejected.value.code is RejectCode.SCHEMA_VIOLATION


def test_a_host_is_named_as_deliveries_have_it() -> None:
    assert parsed(Redeliver, {"host": "X.Example."}).host == "x.example"


def test_the_types_of_a_subscription_are_those_that_there_are() -> None:
    """Each once; null, as nothing, is all of them."""
    types = ["session.completed", "payment.paid", "session.completed"]
    assert parsed(SetSubscription, {"name": "a", "url": URL, "types": types}).types == types[:2]
    assert parsed(SetSubscription, {"name": "a", "url": URL, "types": None}).types is None
    assert parsed(SetSubscription, {"name": "a", "url": URL, "types": list(EventType)}).types == list(EventType)
    for wrong in ([], ["session.exploded"], ["session.completed.v1"], "session.completed", [1]):
        with pytest.raises(Rejected, match="/types"):
            parsed(SetSubscription, {"name": "a", "url": URL, "types": wrong})


def test_no_command_of_one_worker_is_understood_by_the_other() -> None:
    assert not CALLBACK_COMMANDS.keys() & COMMANDS.keys()
    assert all(name.startswith("callback.") for name in CALLBACK_COMMANDS)


def test_every_key_of_a_filter_is_a_condition() -> None:
    """Left out, it would send again what nobody asked for."""
    body = {
        "sessionId": ID, "requestId": ID, "state": "FAILED", "reason": "gone", "host": "x",
        "createdFrom": "2026-05-04T12:00:00Z", "createdTo": "2026-05-05T12:00:00Z",
    }  # fmt: skip
    assert set(body) == set(FILTER_KEYS)
    for key, value in body.items():
        [condition] = conditions_of(parsed(Redeliver, {key: value}))
        assert key.removesuffix("From").removesuffix("To") in condition.sql.replace('"createdAt"', "created")
    assert len(conditions_of(parsed(Redeliver, body))) == len(body)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["callbacks", "redeliver"], "Name an ID"),
        (["callbacks", "redeliver", ID, "--state", "FAILED"], "must stand"),
        (["callbacks", "redeliver", "--from", "2026-05-05", "--to", "2026-05-04"], "createdFrom"),
        (["callbacks", "redeliver", "--host", "x "], "white space"),
        (["callbacks", "show", "x"], "UUID"),
        (["callback-secret"], "Name the client"),
        (["callback-secret", "--public"], "CALLBACK_ED25519_KEY"),
        (["listen", "--secret", "x"], "must begin with whsec_"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_told_so(arguments: list[str], said: str) -> None:
    """Status 2, before anything is asked of broker or database."""
    ran = CliRunner().invoke(app, arguments, env={"CALLBACK_ED25519_KEY": None, "COLUMNS": "200"})
    assert ran.exit_code == 2
    assert said in ran.output


def test_a_secret_is_printed_for_each_live_key_newest_first() -> None:
    """For a named client those that are derived, for the anonymous caller the masters."""
    masters = ["whsec_" + letter * 44 for letter in "AB"]
    environment = {"CALLBACK_SIGNING_KEYS": ",".join(masters)}
    ran = CliRunner().invoke(app, ["callback-secret", "anonymous"], env=environment)
    assert ran.output.split() == masters
    named = CliRunner().invoke(app, ["callback-secret", "app"], env=environment).output.split()
    assert len(named) == 2
    assert not set(named) & set(masters)

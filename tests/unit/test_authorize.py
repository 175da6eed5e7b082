"""Verdicts: who may charge, by the tables and by a service's answer."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from session_worker.authorize import (
    ALLOWED,
    FAILED,
    TIMED_OUT,
    UNKNOWN_DRIVER,
    Driver,
    Verdict,
    acl_verdict,
    http_verdict,
)
from session_worker.breaker import Breaker
from session_worker.decide import Facts, conclude, decide
from session_worker.session import Outcome, Reason
from shared.commands import DriverStatus
from shared.resources import Decision
from tests.builders import NOW, cancel, request

OK = DriverStatus.ALLOWED
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("driver", "station", "decision", "reason"),
    [
        (None, True, Decision.INVALID, Reason.UNKNOWN_DRIVER),
        (None, None, Decision.INVALID, Reason.UNKNOWN_DRIVER),
        (Driver(status=OK), True, Decision.ALLOWED, None),
        (Driver(status=OK), None, Decision.NOT_ALLOWED, Reason.UNKNOWN_STATION),
        (Driver(status=OK), False, Decision.NOT_ALLOWED, Reason.STATION_CLOSED),
        (Driver(status=DriverStatus.BLOCKED), True, Decision.NOT_ALLOWED, Reason.BLOCKED),
        (Driver(status=DriverStatus.EXPIRED), True, Decision.NOT_ALLOWED, Reason.EXPIRED),
        (Driver(status=DriverStatus.NO_CREDIT), True, Decision.NOT_ALLOWED, Reason.NO_CREDIT),
        (Driver(status=OK, valid_until=NOW), True, Decision.NOT_ALLOWED, Reason.EXPIRED),
        (Driver(status=OK, valid_until=NOW + HOUR), True, Decision.ALLOWED, None),
        (Driver(status=OK, valid_from=NOW + HOUR), True, Decision.NOT_ALLOWED, Reason.NOT_ALLOWED),
        (Driver(status=OK, valid_from=NOW), True, Decision.ALLOWED, None),
        (Driver(status=OK, stations=["S"]), True, Decision.ALLOWED, None),
        (Driver(status=OK, stations=["T"]), True, Decision.NOT_ALLOWED, Reason.NOT_ALLOWED),
        (Driver(status=OK, stations=[]), True, Decision.NOT_ALLOWED, Reason.NOT_ALLOWED),
    ],
)
def test_the_tables_decide(
    driver: Driver | None, station: bool | None, decision: Decision, reason: Reason | None
) -> None:
    assert acl_verdict(driver, station, "S", NOW) == Verdict(decision, reason)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, {"allowed": "ALLOWED"}, ALLOWED),
        (200, {"data": {"allowed": "ALLOWED", "info": {}}, "status_code": 1000}, ALLOWED),
        (200, {"allowed": "BLOCKED"}, Verdict(Decision.NOT_ALLOWED, Reason.BLOCKED)),
        (200, {"allowed": "EXPIRED"}, Verdict(Decision.NOT_ALLOWED, Reason.EXPIRED)),
        (200, {"allowed": "NO_CREDIT"}, Verdict(Decision.NOT_ALLOWED, Reason.NO_CREDIT)),
        (200, {"allowed": "NOT_ALLOWED"}, Verdict(Decision.NOT_ALLOWED, Reason.NOT_ALLOWED)),
        (404, None, UNKNOWN_DRIVER),
        (404, {"allowed": "ALLOWED"}, UNKNOWN_DRIVER),
        (200, {"allowed": True}, FAILED),
        (200, {"allowed": "PERHAPS"}, FAILED),
        (200, {}, FAILED),
        (200, None, FAILED),
        (200, ["ALLOWED"], FAILED),
        (500, {"allowed": "ALLOWED"}, FAILED),
        (302, None, FAILED),
        (201, {"allowed": "ALLOWED"}, FAILED),
    ],
)
def test_a_service_that_answers_nonsense_has_not_decided(status: int, body: Any, verdict: Verdict) -> None:
    assert http_verdict(status, body) == verdict


def test_a_request_without_a_verdict_waits_until_its_deadline() -> None:
    facts = Facts(now=NOW, verdict=None, authorization_timeout=timedelta(seconds=10))
    decided = decide(None, request(uuid4()), facts)
    assert decided.outcome is Outcome.PARKED
    assert not decided.events
    assert decided.request is not None
    assert decided.request.decision is None
    assert decided.request.deadline_at == NOW + timedelta(seconds=10)


def test_a_verdict_decides_the_request_and_what_waited_for_it() -> None:
    request_id = uuid4()
    pending = decide(None, request(request_id), Facts(now=NOW, verdict=None)).request
    assert pending is not None
    overtaker = cancel(request_id)
    assert decide(None, overtaker, Facts(now=NOW, request=pending)).outcome is Outcome.PARKED
    decided = conclude(pending, ALLOWED, Facts(now=NOW, parked=(overtaker,)))
    assert [event.type for event in decided.events] == ["request.decided", "session.cancelled"]
    assert [event.data["sequence"] for event in decided.events] == [1, 2]


@pytest.mark.parametrize("verdict", [TIMED_OUT, FAILED, UNKNOWN_DRIVER])
def test_a_request_that_is_not_allowed_makes_no_session(verdict: Verdict) -> None:
    pending = decide(None, request(uuid4()), Facts(now=NOW, verdict=None)).request
    assert pending is not None
    decided = conclude(pending, verdict, Facts(now=NOW))
    assert (decided.outcome, decided.session) == (Outcome.REFUSED, None)
    assert decided.events[0].data["decision"] == str(verdict.decision)


def test_an_allowed_driver_may_still_find_the_charger_busy() -> None:
    pending = decide(None, request(uuid4(), fields={"connector_id": "1"}), Facts(now=NOW, verdict=None)).request
    assert pending is not None
    decided = conclude(pending, ALLOWED, Facts(now=NOW, claim_is_held=True))
    assert (decided.session, decided.reason) == (None, Reason.CHARGER_BUSY)


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() -> None:
    breaker = Breaker(failures_to_open=2, open_for_s=5)
    breaker.failed(0)
    assert breaker.lets_through(0)
    breaker.failed(1)
    assert not breaker.lets_through(5.9)
    assert breaker.lets_through(6)
    assert not breaker.lets_through(6), "one probe at a time"
    breaker.failed(7)
    assert not breaker.lets_through(11.9)
    assert breaker.lets_through(12)
    breaker.abandoned()
    assert breaker.lets_through(12), "nobody knows: another probe"
    breaker.succeeded()
    assert breaker.lets_through(12)
    breaker.failed(13)
    assert breaker.lets_through(13)

"""An acknowledgement means a confirm; whatever else became of a publish is a 503 that says what to do."""

import httpx
import pytest

from gateway.faults import FaultLog
from gateway.publishing import MAX_IN_FLIGHT
from shared.broker.publisher import Outcome
from shared.messages import Message
from tests.unit.gateway.fakes import BODIES, PATHS, FakePublisher, opened
from tests.unit.gateway.test_bad_input import problem


@pytest.mark.parametrize(
    ("outcome", "slug"),
    [
        (Outcome.UNKNOWN, "outcome-unknown"),
        (Outcome.NOT_SENT, "broker-unavailable"),
        (Outcome.REFUSED, "broker-unavailable"),
        (Outcome.UNROUTABLE, "not-provisioned"),
    ],
)
async def test_what_is_not_confirmed_is_not_acknowledged(outcome: Outcome, slug: str) -> None:
    """503 with Retry-After; the type tells "may be stored" from "is not stored"."""
    async with opened(FakePublisher(outcome)) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"])
    problem(answer, 503, slug)
    assert int(answer.headers["retry-after"]) > 0
    assert "location" not in answer.headers


async def test_an_unknown_outcome_names_the_way_out() -> None:
    """The title is the instruction of the contract."""
    async with opened(FakePublisher(Outcome.UNKNOWN)) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"])
    assert answer.json()["title"] == "Outcome unknown, retry with the same Idempotency-Key"


async def test_an_unprovisioned_broker_names_the_mending_command() -> None:
    """The operator reads it in the answer."""
    async with opened(FakePublisher(Outcome.UNROUTABLE)) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"])
    assert "python -m ops provision" in answer.json()["detail"]


async def test_beyond_the_limit_in_flight_nothing_is_published() -> None:
    """503 at once: more would only wait longer."""
    publisher = FakePublisher()
    publisher.in_flight = MAX_IN_FLIGHT
    async with opened(publisher) as client:
        problem(await client.post(PATHS["start"], json=BODIES["start"]), 503, "overloaded")
        publisher.in_flight -= 1
        taken = await client.post(PATHS["start"], json=BODIES["start"])
    assert taken.status_code == 202
    assert len(publisher.published) == 1


async def test_an_invalid_body_is_a_400_even_when_the_broker_is_down() -> None:
    """The caller's fault is told first: a retry would not mend it."""
    async with opened(FakePublisher(Outcome.NOT_SENT)) as client:
        problem(await client.post(PATHS["start"], json={}), 400, "invalid-body")


async def test_an_unreachable_database_is_a_503_for_reads_alone() -> None:
    """Commands are taken; a read says that it can be tried again."""
    async with opened() as client:
        read = await client.get("/api/v1/session")
        posted = await client.post(PATHS["start"], json=BODIES["start"])
    problem(read, 503, "database-unavailable")
    assert int(read.headers["retry-after"]) > 0
    assert posted.status_code == 202


async def test_liveness_depends_on_nothing_and_readiness_on_the_broker() -> None:
    """The gateway acknowledges without the database, so it is ready without it."""

    class Disconnected(FakePublisher):
        def fault(self) -> str | None:
            return "not connected to the broker"

    async with opened(Disconnected()) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz")
    assert (live.status_code, ready.status_code) == (200, 503)
    assert ready.json()["checks"] == {"broker": "not connected to the broker"}
    async with opened() as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_metrics_count_by_route_and_outcome() -> None:
    """Ids never become label values; nor do paths that do not exist."""
    async with opened(FakePublisher(Outcome.REFUSED)) as client:
        await client.post(PATHS["start"], json=BODIES["start"])
        await client.get("/api/v1/session/123e4567-e89b-12d3-a456-426614174000")
        await client.get("/nowhere")
        metrics: httpx.Response = await client.get("/metrics")
    text = metrics.text
    assert 'voltline_gateway_requests_total{route="/api/v1/session/start",status="503"}' in text
    assert 'voltline_gateway_requests_total{route="/api/v1/session/{sessionId}",status="503"}' in text
    assert 'voltline_gateway_publishes_total{outcome="refused"}' in text
    assert "nowhere" not in text
    assert "123e4567" not in text


def test_an_outage_is_a_line_a_second_not_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of each kind is named, the others are counted in the next line."""
    lines: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            lines.append({"event": event, **fields})

    times = iter([0.0, 0.1, 0.2, 1.5, 1.6])
    monkeypatch.setattr("gateway.faults.log", Log())
    monkeypatch.setattr("gateway.faults.time.monotonic", lambda: next(times))
    faults = FaultLog()
    message = Message(body=b"", message_id="id", type="session.start.v1")
    for outcome in (Outcome.NOT_SENT, Outcome.NOT_SENT, Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT):
        faults.note(outcome, message)
    assert [(line["outcome"], line["count"]) for line in lines] == [("not_sent", 1), ("unknown", 1), ("not_sent", 2)]

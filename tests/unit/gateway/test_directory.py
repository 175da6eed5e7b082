"""The operator's commands: the path names what they are about, byte for byte as it was percent-encoded."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from gateway.auth import Scope
from shared.commands import canonical_body, parse_command
from tests.unit.gateway.fakes import FakePublisher, api_key, opened
from tests.unit.gateway.test_bad_input import problem

PUTS: dict[str, dict[str, Any]] = {
    "/api/v1/drivers": {"status": "ALLOWED", "validUntil": "2027-01-01T00:00:00+01:00", "stations": ["S/1"]},
    "/api/v1/stations": {"open": False, "reason": "Maintenance"},
    "/api/v1/tariffs": {"currency": "EUR", "perKwh": 0.45, "stepWh": 100, "taxPercent": "19.0"},
}
KEYS = {"/api/v1/drivers": "driverId", "/api/v1/stations": "stationId", "/api/v1/tariffs": "name"}
TYPES = {"/api/v1/drivers": "driver", "/api/v1/stations": "station", "/api/v1/tariffs": "tariff"}
NAMES = ["DRIVER-1", "a/b", "Zürich ⚡", "50%", "%2F", "a?b#c", "x" * 255, "..."]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PUTS)
async def test_the_path_names_what_is_set(path: str, name: str) -> None:
    """Decoded once; a key of that name in the body is an unknown key; Location is the same address."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.put(f"{path}/{quote(name, safe='')}", json=PUTS[path] | {KEYS[path]: "another"})
    message = publisher.published[0].message
    assert answer.status_code == 202
    assert answer.json() == {"success": True, KEYS[path]: name, "message": answer.json()["message"]}
    assert answer.headers["location"] == f"{path}/{quote(name, safe='')}"
    assert json.loads(message.body)[KEYS[path]] == name
    assert message.type == f"session.set_{TYPES[path]}.v1"
    assert message.correlation_id == message.message_id


@pytest.mark.parametrize("path", PUTS)
async def test_the_worker_reads_the_command_that_was_published(path: str) -> None:
    """The same canonical body, so the same hash: what waits for the outcome finds it."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        await client.put(f"{path}/X", json=PUTS[path])
    message = publisher.published[0].message
    assert canonical_body(parse_command(message.body, str(message.type))) == message.body


@pytest.mark.parametrize("path", ["/api/v1/drivers", "/api/v1/stations"])
async def test_a_removal_needs_no_body(path: str) -> None:
    """And none is read: RFC 9110 gives it no meaning. There is no Location: nothing will be there."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        plain = await client.delete(f"{path}/A%2FB")
        with_body = await client.request(
            "DELETE", f"{path}/A%2FB", content=b"{", headers={"content-type": "text/plain"}
        )
    assert [answer.status_code for answer in (plain, with_body)] == [202, 202]
    assert plain.json()[KEYS[path]] == "A/B"
    assert "location" not in plain.headers
    for published in publisher.published:
        assert published.message.type == f"session.remove_{TYPES[path]}.v1"
        assert json.loads(published.message.body) == {KEYS[path]: "A/B"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
@pytest.mark.parametrize("name", ["", "x" * 256, "%00", "%0a", "x%0a", "x%0d", "%20x", "%ff", "%c3"])
async def test_a_name_that_no_field_would_take_is_refused(method: str, name: str) -> None:
    """400 with the parameter; nothing is published."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        answer = await client.request(method, f"/api/v1/drivers/{name}", json={"status": "ALLOWED"})
    assert [fault["parameter"] for fault in problem(answer, 400, "invalid-parameter")["errors"]] == ["driverId"]
    assert publisher.published == []


@pytest.mark.parametrize(
    ("path", "change", "pointer"),
    [
        ("/api/v1/drivers", {"status": "MAYBE"}, "/status"),
        ("/api/v1/drivers", {"validFrom": "2028-01-01T00:00:00Z"}, ""),
        ("/api/v1/drivers", {"stations": [""]}, "/stations/0"),
        ("/api/v1/stations", {"open": "yes"}, "/open"),
        ("/api/v1/tariffs", {"currency": "eur"}, "/currency"),
        ("/api/v1/tariffs", {"perKwh": -1}, "/perKwh"),
        ("/api/v1/tariffs", {"minimum": 2, "maximum": 1}, ""),
    ],
)
async def test_an_invalid_body_is_refused(path: str, change: dict[str, Any], pointer: str) -> None:
    async with opened() as client:
        answer = await client.put(f"{path}/X", json=PUTS[path] | change)
    assert problem(answer, 400, "invalid-body")["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_only_an_operator_may(method: str) -> None:
    """Reads, too: they hold everybody's drivers."""
    keys = (api_key("app-key", "app", Scope.SESSIONS, Scope.PAYMENTS),)
    async with opened(keys=keys) as client:
        answer = await client.request(method, "/api/v1/drivers/X", json={}, headers={"X-API-Key": "app-key"})
    problem(answer, 403, "forbidden")


async def test_allow_names_every_method_of_the_path() -> None:
    async with opened() as client:
        for path, allowed in (
            ("drivers/X", "GET, PUT, DELETE"),
            ("stations/X", "GET, PUT, DELETE"),
            ("tariffs/X", "GET, PUT"),
        ):
            answer = await client.post(f"/api/v1/{path}")
            problem(answer, 405, "method-not-allowed")
            assert answer.headers["allow"] == allowed


async def test_metrics_know_the_template_not_the_name() -> None:
    async with opened() as client:
        await client.put("/api/v1/stations/SECRET", json={"open": True})
        await client.get("/api/v1/stations/SECRET")
        text = (await client.get("/metrics")).text
    assert 'voltline_gateway_requests_total{route="/api/v1/stations/{stationId}",status="202"}' in text
    assert 'voltline_gateway_requests_total{route="/api/v1/stations/{stationId}",status="503"}' in text
    assert "SECRET" not in text

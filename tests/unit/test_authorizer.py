"""What goes to the authorization service and what is made of its answer; the loops around it: integration tests."""

import gzip
import json
from uuid import UUID, uuid4

import httpx
import pytest

from session_worker.authorizer import ANSWER_MOST_BYTES, _ask
from session_worker.decide import Facts, decide
from session_worker.session import Request
from tests.builders import NOW, request

URL = "http://authorization.example/ask"
ALLOWED = b'{"allowed":"ALLOWED"}'


class Service:
    """Answers with these bytes, packed for whoever takes that, as a proxy in front of it would."""

    def __init__(self, content: bytes = ALLOWED) -> None:
        self.content = content
        self.asked: list[httpx.Request] = []

    def __call__(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append(asked)
        if "gzip" not in asked.headers["accept-encoding"]:
            return httpx.Response(200, stream=httpx.ByteStream(self.content))
        packed = httpx.ByteStream(gzip.compress(self.content))
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=packed)

    async def answer_to(self, pending: Request) -> tuple[int, object]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self), trust_env=False) as client:
            return await _ask(client, URL, pending)


def pending_request(request_id: UUID) -> Request:
    pending = decide(None, request(request_id), Facts(now=NOW, verdict=None)).request
    assert pending is not None
    return pending


async def test_a_service_that_packs_its_answers_is_asked_not_to() -> None:
    """Its answer is read as it comes over the wire, and packed it would decide nothing."""
    service, request_id = Service(), uuid4()
    assert await service.answer_to(pending_request(request_id)) == (200, {"allowed": "ALLOWED"})
    (asked,) = service.asked
    assert asked.headers.get_list("accept-encoding") == ["identity"]
    assert (asked.method, str(asked.url), asked.headers["content-type"]) == ("POST", URL, "application/json")
    expected = {"requestId": str(request_id), "stationId": "STATION-1", "driverId": "DRIVER-1", "connectorId": None}
    assert json.loads(asked.content) == expected


@pytest.mark.parametrize("excess_bytes", [0, 1])
async def test_an_answer_is_read_up_to_its_limit(excess_bytes: int) -> None:
    """What comes beyond is not kept: it is no answer."""
    service = Service(ALLOWED.ljust(ANSWER_MOST_BYTES + excess_bytes))
    expected = None if excess_bytes else {"allowed": "ALLOWED"}
    assert await service.answer_to(pending_request(uuid4())) == (200, expected)

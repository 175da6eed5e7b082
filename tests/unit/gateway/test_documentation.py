"""What `/api` shows: complete, true, and from this package alone."""

import json
import re

import pytest

from shared.events import EventType
from tests.unit.gateway.fakes import PATHS, REQUEST_BODY, FakePublisher, opened

WEBHOOK = ("post", "/api/v1/payment/webhooks/{provider}")


async def test_every_operation_is_documented_in_its_section() -> None:
    """ "Session Management" holds "Start a new charging session" and its siblings; the operator's have their own."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("post", "/api/charging-session-requests"), ("get", "/api/charging-session-requests/{requestId}"),
        ("post", "/api/v1/session/start"), ("post", "/api/v1/session/stop"), ("post", "/api/v1/session/cancel"),
        ("post", "/api/v1/session/meter-values"), ("get", "/api/v1/session"), ("get", "/api/v1/session/{sessionId}"),
        ("get", "/api/v1/session/{sessionId}/cdr"),
        ("post", "/api/v1/payment/recreate-link"), ("post", "/api/v1/payment/refund"),
        ("get", "/api/v1/payment/link/{sessionId}"), WEBHOOK,
        ("put", "/api/v1/drivers/{driverId}"), ("get", "/api/v1/drivers/{driverId}"),
        ("delete", "/api/v1/drivers/{driverId}"), ("put", "/api/v1/stations/{stationId}"),
        ("get", "/api/v1/stations/{stationId}"), ("delete", "/api/v1/stations/{stationId}"),
        ("put", "/api/v1/tariffs/{name}"), ("get", "/api/v1/tariffs/{name}"),
        ("get", "/api/v1/callbacks"), ("get", "/api/v1/callbacks/{callbackId}"),
        ("post", "/api/v1/callbacks/{callbackId}/redeliver"), ("post", "/api/v1/callbacks/redeliver"),
        ("get", "/api/v1/subscriptions"), ("get", "/api/v1/subscriptions/{name}"),
        ("put", "/api/v1/subscriptions/{name}"), ("delete", "/api/v1/subscriptions/{name}"),
    }  # fmt: skip
    for (_, path), operation in operations.items():
        section = "Payments" if "/payment/" in path else "Session Management" if "session" in path else "Operator"
        section = "Callbacks" if "callbacks" in path or "subscriptions" in path else section
        assert operation["tags"] == [section]
    assert operations["post", "/api/v1/session/start"]["summary"] == "Start a new charging session"
    for name, operation in operations.items():
        assert "422" not in operation["responses"]
        of_keys = set() if name == WEBHOOK else {"401", "403"}
        assert {"400", "500", "503"} | of_keys <= set(operation["responses"])


async def test_the_webhook_is_documented_as_what_it_is() -> None:
    """No key, a body of any shape, a problem for a bad signature, and no waiting for an outcome."""
    async with opened() as client:
        operation = (await client.get("/api/openapi.json")).json()["paths"][WEBHOOK[1]]["post"]
    assert operation["security"] == []
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"type": "object"}
    assert "bad-signature" in operation["responses"]["400"]["content"]["application/problem+json"]["examples"]
    assert {"404", "408", "413"} <= set(operation["responses"])
    assert [parameter["name"] for parameter in operation["parameters"]] == ["provider"]


async def test_a_payment_is_documented_with_its_link() -> None:
    """In the session, and on its own; the outcome of a new link is the link."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert schemas["Session"]["properties"]["payment"]["allOf"] == [{"$ref": "#/components/schemas/Payment"}]
    assert schemas["Payment"]["properties"]["link"]["allOf"] == [{"$ref": "#/components/schemas/Link"}]
    assert schemas["Payment"]["properties"]["amount"]["example"] == "12.34"
    assert set(schemas["PaymentLink"]["required"]) == {
        "sessionId", "linkId", "url", "amount", "currency", "status", "expiresAt",
    }  # fmt: skip
    outcome = document["paths"]["/api/v1/payment/recreate-link"]["post"]["responses"]["200"]
    assert outcome["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/PaymentLink"}


async def test_pages_for_people_are_not_in_the_document() -> None:
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    assert all(path.startswith("/api/") for path in document["paths"])


async def test_every_command_documents_how_to_wait_for_its_outcome() -> None:
    """The header, the resource under 200, the refusal under 409, and the header that tells an outcome apart."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    for path, methods in document["paths"].items():
        for operation in (operation for method, operation in methods.items() if method != "get" and path != WEBHOOK[1]):
            assert "Prefer" in {parameter["name"] for parameter in operation["parameters"]}, path
            assert "Preference-Applied" in operation["responses"]["200"]["headers"]
            (refused,) = operation["responses"]["409"]["content"]["application/problem+json"]["examples"].values()
            assert refused["value"]["reason"] == "CHARGER_BUSY"


@pytest.mark.parametrize("path", ["/api/charging-session-requests", "/api/v1/session/start"])
async def test_what_takes_a_callback_url_documents_what_is_posted_there(path: str) -> None:
    """Headers, body and what each status means; the types are those that there are."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    posted = document["paths"][path]["post"]["callbacks"]["event"]["{$request.body#/callbackUrl}"]["post"]
    names = {parameter["name"] for parameter in posted["parameters"]}
    assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    body = posted["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]["type"]["enum"]) == set(EventType)
    assert EventType(body["example"]["type"])
    assert "callbacks" not in document["paths"]["/api/v1/session/stop"]["post"]


async def test_every_reference_in_the_document_leads_somewhere() -> None:
    async with opened() as client:
        answer = await client.get("/api/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text)) <= set(schemas)


async def test_the_documented_export_is_what_the_export_makes() -> None:
    """Its total is the session's `finalCost`: 0.50 + 23.4 kWh x 0.45 + 0.5 h idle x 6.00, and 19 % of tax."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    answer = document["paths"]["/api/v1/session/{sessionId}/cdr"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["example"]["cdr"]["total_cost"] == {
        "excl_vat": 14.03,
        "incl_vat": 16.7,
    }


@pytest.mark.parametrize("path", PATHS.values())
async def test_the_documented_example_is_acknowledged_as_documented(path: str) -> None:
    """Body, status and the shape of the answer: what "try it out" sends works."""
    publisher = FakePublisher()
    async with opened(publisher) as client:
        operation = (await client.get("/api/openapi.json")).json()["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = await client.post(path, json=example)
    documented = operation["responses"][str(answer.status_code)]["content"]["application/json"]["example"]
    assert answer.is_success
    assert list(answer.json()) == list(documented)
    assert json.loads(publisher.published[0].message.body).items() >= example.items()


async def test_the_request_example_is_the_seeds() -> None:
    """Byte for byte what the order shows, braces in the URL included."""
    async with opened() as client:
        document = (await client.get("/api/openapi.json")).json()
    content = document["paths"]["/api/charging-session-requests"]["post"]["requestBody"]["content"]
    assert content["application/json"]["example"] == REQUEST_BODY


async def test_ids_that_the_gateway_gives_are_not_in_the_body_schema() -> None:
    """They would be ignored, so nobody is told to send them."""
    async with opened() as client:
        schemas = (await client.get("/api/openapi.json")).json()["components"]["schemas"]
    assert "requestId" not in schemas["RequestSessionBody"]["properties"]
    assert "sessionId" not in schemas["StartSessionBody"]["properties"]
    assert "sessionId" in schemas["StopSession"]["properties"]


async def test_the_document_is_openapi_3_0_throughout() -> None:
    """The Swagger UI of the package reads no later version; `type: null` and `const` belong to those."""
    async with opened() as client:
        answer = await client.get("/api/openapi.json")
    assert answer.json()["openapi"].startswith("3.0.")
    assert not re.search(r'"type":"null"|"const":|"exclusiveMinimum":\d', answer.text)


async def test_the_page_and_its_files_come_from_here() -> None:
    """Relative addresses, so a proxy's prefix is no matter; a policy that lets the browser ask nobody else."""
    async with opened() as client:
        page = await client.get("/api")
        assert re.findall(r'(?:src|href)="([^"]+)"', page.text)
        for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert (await client.get(f"/{address}")).status_code == 200
            assert address.startswith("api/assets/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        slash = await client.get("/api/")
        assert (slash.status_code, slash.headers["location"]) == (308, "../api")

"""The OpenAPI document. FastAPI describes the reads; the commands, which bypass it, are described from their table.

It is OpenAPI 3.0: the Swagger UI that is served from the package reads no later one.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.commands import COMMANDS, CommandRoute
from gateway.problems import MEDIA_TYPE, Kind
from gateway.routes.reads import TAG
from gateway.schemas import CommandAccepted, ProblemDetails, RequestAcknowledged, SessionStarted

OPENAPI_VERSION = "3.0.3"
_REF = "#/components/schemas/{model}"
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_ALWAYS = (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.INTERNAL_ERROR, Kind.NOT_PROVISIONED)
_OF_READS = (Kind.INVALID_PARAMETER, Kind.NOT_FOUND, Kind.DATABASE_UNAVAILABLE, *_ALWAYS)
_OF_COMMANDS = (
    Kind.INVALID_BODY, Kind.MALFORMED_BODY, Kind.INVALID_HEADER, Kind.REQUEST_TIMEOUT, Kind.BODY_TOO_LARGE,
    Kind.UNSUPPORTED_MEDIA_TYPE, Kind.OUTCOME_UNKNOWN, Kind.BROKER_UNAVAILABLE, Kind.OVERLOADED, *_ALWAYS,
)  # fmt: skip
_DESCRIPTION = """\
Starts, stops and watches charging sessions. An acknowledgement of a POST means: the broker has confirmed the command \
to disk. It is applied within moments; the outcome comes as a signed callback and can be read here.

Errors are `application/problem+json` (RFC 9457). Their `type` is stable.

<details><summary>All problem types</summary>

| type | status | meaning |
| --- | --- | --- |
"""


def document(app: FastAPI, *, is_anonymous: bool) -> dict[str, Any]:
    """Return the whole document."""
    drawn = get_openapi(
        title="Voltline", version="1", description=_DESCRIPTION + _kinds(), routes=app.routes,
        openapi_version=OPENAPI_VERSION, tags=[{"name": TAG, "description": "Charging sessions, from request to end."}],
    )  # fmt: skip
    schemas: dict[str, Any] = drawn.setdefault("components", {}).setdefault("schemas", {})
    for operations in drawn["paths"].values():
        operations["get"]["responses"] = {"200": operations["get"]["responses"]["200"], **_problems(_OF_READS)}
    commands = {route.path: {"post": _operation(route)} for route in COMMANDS}
    drawn["paths"] = commands | drawn["paths"]
    bodies: list[type[BaseModel]] = [route.body for route in COMMANDS]
    answers: list[type[BaseModel]] = [ProblemDetails, *map(_answer, COMMANDS)]
    for model in ("HTTPValidationError", "ValidationError"):
        schemas.pop(model, None)
    schemas.update(_definitions(bodies, answers))
    drawn["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    # An empty requirement says that no key is needed.
    drawn["security"] = [{}, *_SECURITY] if is_anonymous else _SECURITY
    return drawn | {name: _as_3_0(drawn[name]) for name in ("paths", "components")}


def _kinds() -> str:
    rows = "\n".join(f"| `{kind.type}` | {kind.status} | {kind.title} |" for kind in Kind)
    return f"{rows}\n\n</details>"


def _answer(route: CommandRoute) -> type[BaseModel]:
    if "chargerId" in route.acknowledgement_example:
        return SessionStarted
    return CommandAccepted if "success" in route.acknowledgement_example else RequestAcknowledged


def _definitions(bodies: list[type[BaseModel]], answers: list[type[BaseModel]]) -> dict[str, Any]:
    wanted = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    definitions = models_json_schema(wanted, ref_template=_REF)[1]["$defs"]  # type: ignore[arg-type]
    return dict(definitions)


def _operation(route: CommandRoute) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": "Acknowledged: the broker has the command on disk.",
        "content": _json(_answer(route), route.acknowledgement_example),
    }
    if route.location is not None:
        answer["headers"] = {
            "Location": {"description": "Where it can be read, once applied.", "schema": {"type": "string"}}
        }
    return {
        "tags": [TAG],
        "summary": route.summary,
        "description": route.description,
        "operationId": route.body.TYPE,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _json(route.body, route.example)},
        "responses": {str(route.status): answer, **_problems(_OF_COMMANDS)},
    }


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key always yields the same ids, and is applied once. Repeat it after a 503.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}


def _json(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}, "example": example}}


def _problems(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    statuses = sorted({kind.status for kind in kinds})
    return {str(status): _problem([kind for kind in kinds if kind.status == status]) for status in statuses}


def _problem(kinds: list[Kind]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=ProblemDetails.__name__)}
    response: dict[str, Any] = {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": {kind.slug: _example(kind) for kind in kinds}}},
    }
    if any(kind.retry_after_s for kind in kinds):
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


def _example(kind: Kind) -> dict[str, Any]:
    detail = "/chargerId: Field required" if kind is Kind.INVALID_BODY else kind.title
    content: dict[str, Any] = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail}
    if kind is Kind.INVALID_BODY:
        content["errors"] = [{"pointer": "/chargerId", "detail": "Field required"}]
    return {"summary": kind.title, "value": content | {"instance": "/api/v1/session"}}


def _as_3_0(node: Any) -> Any:
    """Return schemas with what JSON Schema 2020-12 says differently put as OpenAPI 3.0 has it.

    Titles go, too: pydantic's are the names once more, in wrong letters.
    """
    if isinstance(node, list):
        return [_as_3_0(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "anyOf" in node and {"type": "null"} in node["anyOf"]:
        return _as_3_0(_nullable(node))
    if isinstance(node.get("examples"), list):
        node = {key: value for key, value in node.items() if key != "examples"} | {"example": node["examples"][0]}
    if "const" in node and "type" in node:
        node = {key: value for key, value in node.items() if key != "const"} | {"enum": [node["const"]]}
    kept = {key: value for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    return {key: value if key in ("example", "examples") else _as_3_0(value) for key, value in kept.items()}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    if len(choices) > 1:
        return rest | {"anyOf": choices, "nullable": True}
    (choice,) = choices
    return rest | ({"allOf": [choice]} if "$ref" in choice else choice) | {"nullable": True}

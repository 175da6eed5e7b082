"""The OpenAPI document. FastAPI describes the reads and the webhook; the commands bypass it, and their table does.

It is OpenAPI 3.0: the Swagger UI that is served from the package reads no later one.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.callback_commands import RedeliverBody, SetSubscriptionBody
from gateway.callback_schemas import (
    Callback,
    RedeliveriesAccepted,
    RedeliveryAccepted,
    RedeliveryCount,
    Subscription,
    SubscriptionAccepted,
    SubscriptionDeleted,
)
from gateway.command_route import CALLBACK_TAG, OPERATOR_TAG, PAYMENT_TAG, SESSION_TAG, CommandRoute, IdFrom
from gateway.commands import COMMANDS
from gateway.openapi_3_0 import as_3_0
from gateway.openapi_callbacks import EVENT_CALLBACKS
from gateway.preference import MOST_WAIT_S
from gateway.problems import MEDIA_TYPE, Kind
from gateway.resources import DRIVER, PAYMENT_LINK, REQUEST, STATION, TARIFF
from gateway.schemas import (
    CommandAccepted,
    Driver,
    DriverAccepted,
    DriverDeleted,
    PaymentLink,
    ProblemDetails,
    RequestAcknowledged,
    Session,
    SessionRequest,
    SessionStarted,
    Station,
    StationAccepted,
    StationDeleted,
    Tariff,
    TariffAccepted,
)
from gateway.session_commands import RequestSessionBody, StartSessionBody
from shared.callback_commands import Redeliver, RemoveSubscription

OPENAPI_VERSION = "3.0.3"
_REF = "#/components/schemas/{model}"
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_ALWAYS = (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.INTERNAL_ERROR, Kind.NOT_PROVISIONED)
_OF_READS = (Kind.INVALID_PARAMETER, Kind.NOT_FOUND, Kind.DATABASE_UNAVAILABLE, *_ALWAYS)
_OF_WEBHOOKS = (
    Kind.BAD_SIGNATURE, Kind.MALFORMED_BODY, Kind.INVALID_BODY, Kind.NOT_FOUND, Kind.REQUEST_TIMEOUT,
    Kind.BODY_TOO_LARGE, Kind.OUTCOME_UNKNOWN, Kind.BROKER_UNAVAILABLE, Kind.OVERLOADED, Kind.INTERNAL_ERROR,
    Kind.NOT_PROVISIONED,
)  # fmt: skip
_OF_BODIES = (Kind.INVALID_BODY, Kind.MALFORMED_BODY, Kind.UNSUPPORTED_MEDIA_TYPE)
_OF_COMMANDS = (
    Kind.INVALID_HEADER, Kind.REFUSED, Kind.REQUEST_TIMEOUT, Kind.BODY_TOO_LARGE, Kind.OUTCOME_UNKNOWN,
    Kind.BROKER_UNAVAILABLE, Kind.OVERLOADED, *_ALWAYS,
)  # fmt: skip
_DESCRIPTION = """\
Starts, stops and watches charging sessions. An acknowledgement of a POST means: the broker has confirmed the command \
to disk. It is applied within moments; the outcome comes as a signed callback and can be read here.

Errors are `application/problem+json` (RFC 9457). Their `type` is stable.

<details><summary>All problem types</summary>

| type | status | meaning |
| --- | --- | --- |
"""


_TAGS = [
    {"name": SESSION_TAG, "description": "Charging sessions, from request to end."},
    {"name": PAYMENT_TAG, "description": "Payment links and refunds. Commands need the scope `payments`."},
    {"name": CALLBACK_TAG, "description": "The log of callbacks, redelivery, and standing subscriptions."},
    {"name": OPERATOR_TAG, "description": "Who may charge, where, and at what price. Needs the scope `operator`."},
]


def document(app: FastAPI, *, is_anonymous: bool) -> dict[str, Any]:
    """Return the whole document."""
    drawn = get_openapi(
        title="Voltline", version="1", description=_DESCRIPTION + _kinds(), routes=app.routes,
        openapi_version=OPENAPI_VERSION, tags=_TAGS,
    )  # fmt: skip
    schemas: dict[str, Any] = drawn.setdefault("components", {}).setdefault("schemas", {})
    for operations in drawn["paths"].values():
        for method, operation in operations.items():
            kinds = _OF_READS if method == "get" else _OF_WEBHOOKS
            operation["responses"] = {"200": operation["responses"]["200"], **_problems(kinds)}
    drawn["paths"] = _with_commands(drawn["paths"])
    bodies: list[type[BaseModel]] = [route.body for route in COMMANDS if route.has_body]
    answers: list[type[BaseModel]] = [ProblemDetails, *map(_acknowledgement, COMMANDS), *map(_outcome, COMMANDS)]
    for model in ("HTTPValidationError", "ValidationError"):
        schemas.pop(model, None)
    schemas.update(_definitions(bodies, answers))
    drawn["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    # An empty requirement says that no key is needed.
    drawn["security"] = [{}, *_SECURITY] if is_anonymous else _SECURITY
    return drawn | {name: as_3_0(drawn[name]) for name in ("paths", "components")}


def _kinds() -> str:
    rows = "\n".join(f"| `{kind.type}` | {kind.status} | {kind.title} |" for kind in Kind)
    return f"{rows}\n\n</details>"


def _with_commands(reads: dict[str, Any]) -> dict[str, Any]:
    """Return the operations of all paths, the commands first: they are what people come for."""
    paths: dict[str, Any] = {}
    for route in COMMANDS:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for path, operations in reads.items():
        paths.setdefault(path, {}).update(operations)
    return paths


def _acknowledgement(route: CommandRoute) -> type[BaseModel]:
    if route.body in _ACKNOWLEDGEMENTS:
        return _ACKNOWLEDGEMENTS[route.body]
    return _OF_DIRECTORY[route.parameter][0] if route.id_from is IdFrom.PATH else CommandAccepted


def _outcome(route: CommandRoute) -> type[BaseModel]:
    """What a caller who waits is shown; of a dry run, what everybody is."""
    if route.body in _OUTCOMES:
        return _OUTCOMES[route.body]
    if route.id_from is IdFrom.PATH:
        return _OF_DIRECTORY[route.parameter][2 if route.resource is None else 1]
    if route.resource is PAYMENT_LINK:
        return PaymentLink
    return SessionRequest if route.resource is REQUEST else Session


_ACKNOWLEDGEMENTS: Mapping[type[BaseModel], type[BaseModel]] = {
    RequestSessionBody: RequestAcknowledged,
    StartSessionBody: SessionStarted,
    Redeliver: RedeliveryAccepted,
    RedeliverBody: RedeliveriesAccepted,
    SetSubscriptionBody: SubscriptionAccepted,
    RemoveSubscription: SubscriptionAccepted,
}
_OUTCOMES: Mapping[type[BaseModel], type[BaseModel]] = {
    Redeliver: Callback,
    RedeliverBody: RedeliveryCount,
    SetSubscriptionBody: Subscription,
    RemoveSubscription: SubscriptionDeleted,
}
# The acknowledgement, the resource, and what is shown of one that was deleted.
_OF_DIRECTORY: Mapping[str, tuple[type[BaseModel], ...]] = {
    DRIVER.key: (DriverAccepted, Driver, DriverDeleted),
    STATION.key: (StationAccepted, Station, StationDeleted),
    TARIFF.key: (TariffAccepted, Tariff),
}


def _definitions(bodies: list[type[BaseModel]], answers: list[type[BaseModel]]) -> dict[str, Any]:
    wanted = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    definitions = models_json_schema(wanted, ref_template=_REF)[1]["$defs"]  # type: ignore[arg-type]
    return dict(definitions)


def _operation(route: CommandRoute) -> dict[str, Any]:
    kinds = (*(_OF_BODIES if route.has_body else ()), *_OF_COMMANDS)
    named: list[dict[str, Any]] = []
    if route.id_from is IdFrom.PATH:
        kinds = (Kind.INVALID_PARAMETER, *kinds)
        named = [{"name": route.parameter, "in": "path", "required": True, "schema": _IDENTIFIER}]
    if route.id_from is IdFrom.ID_IN_PATH:
        named = [{"name": route.parameter, "in": "path", "required": True, "schema": _ID}]
    if route.look_first is not None:
        kinds = (Kind.NOT_FOUND if route.id_from is IdFrom.ID_IN_PATH else Kind.DATABASE_UNAVAILABLE, *kinds)
    content = {"required": True, "content": _json(route.body, route.example)}
    return {
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description,
        "operationId": route.operation_id or route.body.TYPE,
        "parameters": [*named, _IDEMPOTENCY_KEY, _PREFER],
        **({"requestBody": content} if route.has_body else {}),
        "responses": {**_answers(route), **_problems(kinds)},
        **({"callbacks": EVENT_CALLBACKS} if "callback_url" in route.body.model_fields else {}),
    }


def _answers(route: CommandRoute) -> dict[str, Any]:
    """The acknowledgement and the outcome: one answer with two bodies where both have the status 200."""
    is_dry_run = route.look_first is not None and route.resource is None
    acknowledged: dict[str, Any] = {
        "description": "Acknowledged: the broker has the command on disk.",
        "content": _json(_acknowledgement(route), route.acknowledgement_example),
        "headers": {} if route.location is None else {"Location": _LOCATION},
    }
    outcome: dict[str, Any] = {
        "description": "A dry run: what it finds." if is_dry_run else _APPLIED_DESCRIPTION,
        "content": {"application/json": {"schema": _reference(_outcome(route))}},
        "headers": {"Preference-Applied": _APPLIED},
    }
    if route.status != 200:
        return {"200": outcome, str(route.status): acknowledged}
    both = {"anyOf": [_reference(_acknowledgement(route)), _reference(_outcome(route))]}
    acknowledged["content"]["application/json"]["schema"] = both
    acknowledged["description"] += " With `Prefer: wait=N` and `Preference-Applied`: what has become of it."
    acknowledged["headers"]["Preference-Applied"] = _APPLIED
    return {"200": acknowledged}


_IDENTIFIER = {"type": "string", "minLength": 1, "maxLength": 255}
_APPLIED_DESCRIPTION = "With `Prefer: wait=N`: the command was applied, and this is what has become of it."
_ID = {"type": "string", "format": "uuid"}
_LOCATION = {"description": "Where it can be read, once applied.", "schema": {"type": "string"}}
_APPLIED = {
    "description": "Only where the answer is the outcome; the plain acknowledgement after the time is over has none.",
    "schema": {"type": "string", "example": "wait=10"},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "The same key always yields the same ids, and is applied once. Repeat it after a 503. It is known for 30 days "
        "at least, unless the operator has set another time."
    ),
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": (
        f"`wait=N` (RFC 7240) waits up to N seconds, {MOST_WAIT_S} at the most, for the outcome: 200 with the "
        "resulting resource, or 409 with the `reason` of a refusal, both with `Preference-Applied`; else the plain "
        "acknowledgement, without it."
    ),
    "schema": {"type": "string"},
}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _json(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(model), "example": example}}


def _problems(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    statuses = sorted({kind.status for kind in kinds})
    return {str(status): _problem([kind for kind in kinds if kind.status == status]) for status in statuses}


def _problem(kinds: list[Kind]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {
            MEDIA_TYPE: {
                "schema": _reference(ProblemDetails),
                "examples": {kind.slug: _example(kind) for kind in kinds},
            }
        },
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
    if kind is Kind.REFUSED:
        content["reason"] = "CHARGER_BUSY"
    return {"summary": kind.title, "value": content | {"instance": "/api/v1/session"}}

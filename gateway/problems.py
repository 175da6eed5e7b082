"""Problems (RFC 9457): every error that the gateway answers, and the one place that turns errors into HTTP.

`type` is `urn:voltline:problem:<slug>`; the slugs are stable, listed in `Kind`, and documented at `/api`. A status that
no slug covers is `about:blank`, as the RFC has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from shared.errors import NotProvisioned, Unavailable

MEDIA_TYPE = "application/problem+json"
# One entry per fault; a body may have thousands, and nobody reads the hundred-and-first.
MAX_ERRORS = 100
MAX_DETAIL_CHARS = 500

_METHODS = ("GET", "POST", "PUT", "DELETE")
_PATH_CHARS = "/-._~!$&'()*+,;=:@%"


class Kind(Enum):
    """What can be wrong: slug, status, title, and the `Retry-After` in seconds where trying again may help."""

    MALFORMED_BODY = "malformed-body", 400, "The body is not valid JSON", None
    INVALID_BODY = "invalid-body", 400, "The body does not match the schema", None
    INVALID_PARAMETER = "invalid-parameter", 400, "A parameter is not valid", None
    INVALID_HEADER = "invalid-header", 400, "A header is not valid", None
    BAD_SIGNATURE = "bad-signature", 400, "The signature of the event is not valid", None
    UNAUTHENTICATED = "unauthenticated", 401, "A valid API key is required", None
    FORBIDDEN = "forbidden", 403, "The API key does not allow this", None
    NOT_FOUND = "not-found", 404, "Nothing is known under this address", None
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "The method is not allowed here", None
    REFUSED = "refused", 409, "The command was refused", None
    REQUEST_TIMEOUT = "request-timeout", 408, "The body did not arrive in time", None
    BODY_TOO_LARGE = "body-too-large", 413, "The body is too large", None
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", 415, "The body must be JSON", None
    INTERNAL_ERROR = "internal-error", 500, "The gateway failed", None
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "Outcome unknown, retry with the same Idempotency-Key", 1
    BROKER_UNAVAILABLE = "broker-unavailable", 503, "The broker takes no messages now", 2
    OVERLOADED = "overloaded", 503, "Too many requests are in flight", 1
    DATABASE_UNAVAILABLE = "database-unavailable", 503, "The database does not answer now", 2
    NOT_PROVISIONED = "not-provisioned", 503, "The broker or database is not provisioned", 30

    def __init__(self, slug: str, status: int, title: str, retry_after_s: int | None) -> None:
        self.slug = slug
        self.status = status
        self.title = title
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        return f"urn:voltline:problem:{self.slug}"


class Problem(Exception):
    """An answer that is an error. `detail` is for the caller: no internals. `reason` is the code of a refusal."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        reason: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{kind.slug}: {detail}")
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.errors = errors
        self.headers = dict(headers or {})


def handle_problems(app: FastAPI) -> None:
    """Make every error of the application a problem. The unforeseen is a 500; uvicorn logs its traceback."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(NotProvisioned, _on_not_provisioned)
    app.add_exception_handler(Exception, _on_unforeseen)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _response(request, error)


async def _on_invalid_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"parameter": str(fault["loc"][-1]), "detail": _sentence(fault)} for fault in error.errors()]
    detail = "; ".join(f"{fault['parameter']}: {fault['detail']}" for fault in errors)
    return _response(request, Problem(Kind.INVALID_PARAMETER, detail, errors=errors))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            problem = Problem(Kind.NOT_FOUND, "No such path. An id in a path is a UUID.")
        case 405:
            problem = Problem(Kind.METHOD_NOT_ALLOWED, "See the header Allow.", headers={"Allow": _allowed(request)})
        case 413:
            problem = Problem(Kind.BODY_TOO_LARGE, "The body is too large.", headers=error.headers)
        case status:
            return _blank(request, status, error.headers)
    return _response(request, problem)


def _allowed(request: Request) -> str:
    """Every method that the path takes; Starlette names only those of the first route that it tries."""
    routes, scope = request.app.routes, request.scope
    return ", ".join(method for method in _METHODS if _is_taken(routes, {**scope, "method": method}))


def _is_taken(routes: Iterable[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(dict(scope))[0] is Match.FULL for route in routes)


async def _on_unavailable(request: Request, _: Exception) -> Response:
    return _response(request, Problem(Kind.DATABASE_UNAVAILABLE, "Commands are still taken; read again shortly."))


async def _on_not_provisioned(request: Request, _: Exception) -> Response:
    return _response(request, Problem(Kind.NOT_PROVISIONED, "The operator mends it with: python -m ops provision"))


async def _on_unforeseen(request: Request, _: Exception) -> Response:
    return _response(request, Problem(Kind.INTERNAL_ERROR, "The fault is logged."))


def problem_body(problem: Problem, instance: str) -> bytes:
    """Return the JSON of a problem."""
    kind = problem.kind
    content: dict[str, Any] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail[:MAX_DETAIL_CHARS],
        "instance": instance,
    }
    if problem.reason is not None:
        content["reason"] = problem.reason
    if problem.errors:
        content["errors"] = problem.errors[:MAX_ERRORS]
    return orjson.dumps(content)


def _response(request: Request, problem: Problem) -> Response:
    headers = problem.headers
    if problem.kind.retry_after_s is not None:
        headers["Retry-After"] = str(problem.kind.retry_after_s)
    body = problem_body(problem, _instance(request))
    return Response(body, status_code=problem.kind.status, headers=headers, media_type=MEDIA_TYPE)


def _blank(request: Request, status: int, headers: Mapping[str, str] | None) -> Response:
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": title, "instance": _instance(request)}
    return Response(orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _instance(request: Request) -> str:
    """The path as a URI reference; never the query, which may name drivers."""
    return quote(request.scope.get("raw_path") or request.scope["path"], safe=_PATH_CHARS)


def _sentence(fault: Mapping[str, Any]) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")

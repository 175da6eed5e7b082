"""What the command endpoint takes from a request: the bounded body, the JSON in it, the key, the trace."""

import asyncio
import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Receive, Scope

from gateway.problems import Kind, Problem
from shared.commands import schema_faults
from shared.fields import Identifier
from shared.ids import idempotent_id, uuid7
from shared.messages import MAX_BODY_BYTES

# A phone on a bad line needs seconds for 64 KiB; a caller who drips bytes shall not hold a task for long.
BODY_TIMEOUT_S = 10.0
MAX_TRACESTATE_CHARS = 512

_JSON_MEDIA_TYPE = re.compile(rb"application/(?:json|[\w.!#$&^+-]+\+json)", re.IGNORECASE)
_IDEMPOTENCY_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
# W3C Trace Context: version, trace id, parent id, flags; later versions may append.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_TRACESTATE_CHARS)

_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)

Headers = Mapping[bytes, bytes]
Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")


class ClientGone(Exception):
    """The caller hung up: there is nobody to answer."""


def check_media_type(headers: Headers) -> None:
    """Raise the 415 unless the body is plain JSON. Without the header, JSON is assumed."""
    media_type = headers.get(b"content-type", b"application/json").split(b";", 1)[0].strip()
    if not _JSON_MEDIA_TYPE.fullmatch(media_type):
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "Send Content-Type: application/json.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding.")


async def read_body(receive: Receive, headers: Headers, *, most_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the body; raise a Problem when it is too large or too slow, ClientGone when it never ends."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_chunks(receive, most_bytes)
    except TimeoutError as error:
        headers_closing = {"Connection": "close"}
        raise Problem(Kind.REQUEST_TIMEOUT, f"{BODY_TIMEOUT_S:g} s are granted.", headers=headers_closing) from error


async def _read_chunks(receive: Receive, most_bytes: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
        if not message.get("more_body", False):
            return body


def _too_large(most_bytes: int) -> Problem:
    return Problem(Kind.BODY_TOO_LARGE, f"At most {most_bytes} bytes are taken.")


def parse_body(body: bytes, model: type[Body]) -> Body:
    """Return the model of the body, a command for example, or raise the 400 that names every fault by JSON pointer.

    orjson looks first: it refuses NaN, lone surrogates and wrong UTF-8 even in keys that the model ignores.
    """
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(str(error)) from error
    try:
        return model.model_validate_json(body, by_name=False)
    except ValidationError as error:
        faults = schema_faults(error)
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise malformed(faults[0]["detail"]) from error
        detail = "; ".join(f"{fault['pointer'] or 'body'}: {fault['detail']}" for fault in faults)
        raise Problem(Kind.INVALID_BODY, detail, errors=faults) from error


def malformed(detail: str) -> Problem:
    """Return the 400 of a body that is no JSON."""
    return Problem(Kind.MALFORMED_BODY, detail, errors=[{"pointer": "", "detail": detail}])


def name_in_path(scope: Scope, parameter: str) -> str:
    """Return the identifier that the path holds, percent-decoded; raise the 400 when no field would take it."""
    try:
        # The server has decoded the path already, with a replacement for what is not UTF-8.
        unquote_to_bytes(scope["raw_path"]).decode()
        name = _IDENTIFIER.validate_python(scope["path_params"][parameter])
    except UnicodeDecodeError as error:
        raise _invalid_parameter(parameter, "must be percent-encoded UTF-8") from error
    except ValidationError as error:
        raise _invalid_parameter(parameter, schema_faults(error)[0]["detail"]) from error
    # The router's pattern ends in `$`, which passes over a line feed at the end.
    if not scope["path"].endswith(name):
        raise _invalid_parameter(parameter, "must not contain control characters")
    return name


def _invalid_parameter(parameter: str, detail: str) -> Problem:
    errors = [{"parameter": parameter, "detail": detail}]
    return Problem(Kind.INVALID_PARAMETER, f"{parameter}: {detail}", errors=errors)


def message_id(headers: Headers, client: str) -> UUID:
    """Return a new id, or the one that this client's Idempotency-Key always stands for."""
    key = headers.get(b"idempotency-key")
    if key is None:
        return uuid7()
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Problem(Kind.INVALID_HEADER, "Idempotency-Key must be 1 to 255 printable ASCII characters.")
    return idempotent_id(client, key.decode("ascii"))


def trace_headers(headers: Headers) -> dict[str, object]:
    """Return the W3C trace context of the request, where it is well-formed: a tracestate is nothing by itself."""
    parent = headers.get(b"traceparent", b"")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    state = headers.get(b"tracestate", b"")
    kept: dict[str, object] = {"traceparent": parent.decode("ascii")}
    return kept | {"tracestate": state.decode("ascii")} if _TRACESTATE.fullmatch(state) else kept


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work returns; raise ClientGone, the work cancelled, as soon as the caller hangs up."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

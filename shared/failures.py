"""What a log says of an error: its kind and place, and no values. Drivers' messages quote bodies and callback URLs."""

import os
import socket
import traceback
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from shared.database import not_provisioned, origin_of, sqlstate
from shared.logs import get_logger

log = get_logger(__name__)

MOST_CHARS = 300

# Of "data exception" (class 22), these name a type or a byte; the others quote the value that was refused.
_DATA_EXCEPTION = "22"
_QUOTE_NO_VALUE = ("22001", "22021")


def reason_of(error: BaseException) -> str:
    """Return an error as one line of a log, without SQL and its parameters."""
    if (missing := not_provisioned(error)) is not None:
        return _first_line(missing)
    if not isinstance(error, DBAPIError):
        return _first_line(error)
    state, origin = sqlstate(error), origin_of(error)
    name = f"{type(origin).__name__} {state or ''}".rstrip()
    if state is not None and state.startswith(_DATA_EXCEPTION) and state not in _QUOTE_NO_VALUE:
        return name
    return f"{name}: {_first_line(origin)}"[:MOST_CHARS]


def kind_of(error: BaseException) -> str:
    """Return what an error is in words that name no host, user or value: for whoever may ask."""
    origin = origin_of(error)
    if isinstance(origin, socket.gaierror):
        return "cannot resolve the host"
    if isinstance(origin, OSError) and origin.errno is not None:
        return os.strerror(origin.errno)
    if type(origin) is OSError:  # asyncio's, of several addresses
        return "no address of the host answers"
    return type(origin).__name__


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error with the frames that it passed, and without the messages of its causes."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, error=type(error).__name__, reason=reason_of(error), trace=trace, **fields)


def _first_line(error: BaseException) -> str:
    # The text of SQLAlchemy's own errors ends with a link to its manual.
    text = str(error.args[0]) if isinstance(error, SQLAlchemyError) and error.args else str(error)
    lines = text.splitlines()
    return lines[0][:MOST_CHARS] if lines else type(error).__name__

"""What a log says of an error: its kind and place, and no values. Drivers' messages quote bodies and callback URLs."""

import traceback
from typing import Any

from sqlalchemy.exc import DBAPIError

from shared.database import not_provisioned, sqlstate
from shared.logs import get_logger

log = get_logger(__name__)

MOST_CHARS = 300

# Of "data exception" (class 22), these name a type or a byte; the others quote the value that was refused.
_DATA_EXCEPTION = "22"
_QUOTE_NO_VALUE = ("22001", "22021")


def reason_of(error: BaseException) -> str:
    """Return an error as one line of a log, without SQL parameters."""
    if (missing := not_provisioned(error)) is not None:
        return _first_line(missing)
    if not isinstance(error, DBAPIError):
        return _first_line(error)
    state = sqlstate(error)
    origin = error.orig if error.orig is not None else error
    name = f"{type(origin.__cause__ or origin).__name__} {state or ''}".rstrip()
    if state is not None and state.startswith(_DATA_EXCEPTION) and state not in _QUOTE_NO_VALUE:
        return name
    return f"{name}: {_first_line(origin)}"[:MOST_CHARS]


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error with the frames that it passed, and without the messages of its causes."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, error=type(error).__name__, reason=reason_of(error), trace=trace, **fields)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:MOST_CHARS] if lines else type(error).__name__

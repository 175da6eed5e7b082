"""Logs: one line per outcome, JSON for machines or coloured columns for people, both through structlog."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor


def configure(*, format: Literal["json", "console"], level: str) -> None:
    """Send structlog's and the libraries' log lines to stderr in one format."""
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=_rendering(format)))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # These libraries log every reconnect with a traceback; our own supervisor says it in one line.
    for name in ("aio_pika", "aiormq", "pamqp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # One line per HTTP request is the access log's business, which is off.
    for name in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error", "alembic", "stripe"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(format: Literal["json", "console"]) -> list[Processor]:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if format == "console":
        # The plain traceback: structlog's own default prints local variables, and with them passwords.
        plain = structlog.dev.plain_traceback
        return [remove, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [remove, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger

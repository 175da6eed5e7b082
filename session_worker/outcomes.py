"""Tells of what became of commands, in metrics and in the log."""

from collections.abc import Sequence

from prometheus_client import Counter

from session_worker.decide import Resolution
from session_worker.session import Received
from shared.logs import get_logger

log = get_logger(__name__)

COMMANDS_HANDLED = Counter("voltline_commands_total", "Commands by type and outcome", ["type", "outcome", "reason"])

Handled = Sequence[tuple[Received, Resolution]]


def tell(handled: Handled) -> None:
    """Count every outcome; say every refusal, for its caller may have no callback URL to hear of it."""
    for received, resolution in handled:
        outcome, reason = str(resolution.outcome), resolution.reason or ""
        COMMANDS_HANDLED.labels(received.command.TYPE, outcome, reason).inc()
        say = log.info if resolution.reason is not None else log.debug
        say(
            "command_handled",
            type=received.command.TYPE,
            session_id=str(received.session_id),
            message_id=str(received.message_id),
            outcome=outcome,
            reason=reason,
        )

"""The callback worker's metrics."""

from datetime import datetime
from functools import cache

import orjson
from prometheus_client import Counter, Gauge, Histogram

_attempts = Counter("voltline_callback_attempts_total", "Attempts by outcome.", ["outcome"])
_deliveries = Counter("voltline_callback_deliveries_total", "Ended deliveries.", ["end"])
_dead_letters = Counter("voltline_callback_dead_letters_total", "Messages set aside, by code.", ["code"])
_commands = Counter(
    "voltline_callback_commands_total", "Commands about callbacks, by outcome.", ["type", "outcome", "reason"]
)
in_flight = Gauge("voltline_callback_attempts_in_flight", "Attempts in flight.")
unwritten = Gauge("voltline_callback_results_unwritten", "Attempts whose result is not in the database yet.")
hosts_open = Gauge("voltline_callback_hosts_open", "Destinations whose breaker is open, as this worker knows them.")
# From a fast subscriber on the same machine to one that waited through an outage.
_first_attempt_s = Histogram(
    "voltline_callback_first_attempt_seconds",
    "Time from an event to its first attempt.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300),
)

# Looking a labelled child up costs as much as counting it; outcomes are few.
attempt_count = cache(_attempts.labels)
delivery_count = cache(_deliveries.labels)
dead_letter_count = cache(_dead_letters.labels)
command_count = cache(_commands.labels)


def observe_first_attempt(body: str, now: datetime) -> None:
    """Note how long after the event of this body its first attempt is made; AMQP's own timestamp is whole seconds."""
    try:
        occurred_at = datetime.fromisoformat(orjson.loads(body)["timestamp"])
        _first_attempt_s.observe((now - occurred_at).total_seconds())
    except (ValueError, KeyError, TypeError):
        return  # an event of another make without a timestamp of ours

"""Which callbacks a filter finds, in SQL: the same for who counts them, lists them and sends them again."""

from dataclasses import dataclass

from shared.callback_commands import Redeliver


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on `callback_deliveries`, with `{}` in the place of its value where it has one."""

    sql: str
    value: object = None


def conditions_of(wanted: Redeliver) -> list[Condition]:
    """Return what must all hold."""
    found = [
        Condition("id = {}", wanted.callback_id),
        Condition('"sessionId" = {}', wanted.session_id),
        Condition('"requestId" = {}', wanted.request_id),
        Condition("reason = {}", wanted.reason and str(wanted.reason)),
        Condition("host = {}", wanted.host),
        Condition('"createdAt" >= {}', wanted.created_from),
        Condition('"createdAt" < {}', wanted.created_to),
    ]
    # The state is written out, so that a plan that is kept knows how rare it is: few callbacks fail.
    state = [] if wanted.state is None else [Condition(f"state = '{wanted.state}'")]
    return [*state, *(condition for condition in found if condition.value is not None)]

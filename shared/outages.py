"""What holds in every worker after the database was away."""

from typing import Final

from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.broker.connection import BACKOFF_MOST_S
from shared.database import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S, is_outage, sqlstate

# After an outage every worker still holds what it was about to write. The last of them sleeps its longest backoff, then
# connects and writes; until then, what ended during the outage says nothing: neither a lease about its worker, nor a
# parked command's time about the start that it waits for.
SETTLING_S: Final = BACKOFF_MOST_S + CONNECT_TIMEOUT_S + STATEMENT_TIMEOUT_S
# Serialization failure, deadlock, lock not available, statement timeout: the database is there.
PASSING: Final = ("40001", "40P01", "55P03", "57014")


def was_away(error: BaseException) -> bool:
    """Whether the error says that the database was away, for all workers: not that one statement was too slow."""
    return is_outage(error) and sqlstate(error) not in PASSING and not isinstance(error, PoolTimeout)

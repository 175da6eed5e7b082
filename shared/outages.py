"""What holds in every worker after the database was away."""

from typing import Final

from shared.broker.connection import BACKOFF_MOST_S
from shared.database import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S

# After an outage every worker still holds what it was about to write. The last of them sleeps its longest backoff, then
# connects and writes; until then, what ended during the outage says nothing: neither a lease about its worker, nor a
# parked command's time about the start that it waits for.
SETTLING_S: Final = BACKOFF_MOST_S + CONNECT_TIMEOUT_S + STATEMENT_TIMEOUT_S

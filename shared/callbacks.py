"""What is said of callbacks on every side: the client of those who have no name, and the states of a delivery."""

from enum import StrEnum
from typing import Final

# Who calls a gateway without a key file; events of no client are treated as this one's.
ANONYMOUS: Final = "anonymous"


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class Reason(StrEnum):
    """Why a delivery failed."""

    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    GONE = "gone"
    BLOCKED = "blocked"
    REJECTED = "rejected"

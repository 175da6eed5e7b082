"""What can go wrong with a message, and what then happens to it.

VoltlineError
├── Rejected             nobody can understand it: it goes unchanged to the dead-letter queue
├── CannotRedrive        a dead letter cannot become again what it was: it stays where it is
├── NotProvisioned       an exchange, queue, table or right is missing: the process waits and names the command
└── Unavailable          the broker or database does not answer now: keep the message and retry
"""

from enum import StrEnum


class VoltlineError(Exception):
    """The root of this product's own errors."""


class RejectCode(StrEnum):
    """Why a message cannot be understood; the stable value of the header `error` of a dead letter."""

    NOT_JSON = "not_json"
    UNKNOWN_TYPE = "unknown_type"
    SCHEMA_VIOLATION = "schema_violation"
    NO_MESSAGE_ID = "no_message_id"
    TOO_LARGE = "too_large"
    UNREADABLE_PROPERTIES = "unreadable_properties"
    UNPROCESSABLE = "unprocessable"


class Rejected(VoltlineError):
    """A message that can never be handled, with a stable code and a sentence for the operator."""

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class CannotRedrive(VoltlineError):
    """A dead letter that stays where it is; the text says why."""


class NotProvisioned(VoltlineError):
    """Something that only provisioning makes is missing or of the wrong kind."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; run: python -m ops provision")


class Unavailable(VoltlineError):
    """The other side does not answer now; the same call may succeed later."""

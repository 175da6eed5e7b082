"""What each reason code means, in a sentence for whoever reads it in an event, a table or a document."""

from collections.abc import Mapping
from typing import Final

from session_worker.session import Reason, Review

REASON_SENTENCES: Final[Mapping[Reason, str]] = {
    Reason.CHARGER_BUSY: "Another session is in progress on this charger, or on this connector of it.",
    Reason.CONCURRENT_SESSION: "The driver already has a session in progress at this station.",
    Reason.UNKNOWN_SESSION: "There is no such session for this caller, and none came in time: within 15 minutes.",
    Reason.ALREADY_ENDED: "The session is completed or cancelled, and an ended session never changes.",
    Reason.SESSION_EXISTS: "A session or request with this id exists already.",
    Reason.STOPPED_BEFORE_START: "A stop or cancel overtook the start, so the session was cancelled as it began.",
    Reason.IDEMPOTENCY_CONFLICT: "A command with this message id came before, with another body.",
    Reason.NOT_PRIVILEGED: "Only an operator may set or remove drivers, stations and tariffs.",
    Reason.TOO_OLD: "The command is older than messages are remembered, so nobody knows whether it was applied before.",
    Reason.STALE: "The session gave no sign of life for 24 hours and was ended.",
    Reason.UNKNOWN_DRIVER: "The driver is not known to the table or the authorization service.",
    Reason.BLOCKED: "The driver is blocked.",
    Reason.EXPIRED: "The driver's permission has run out.",
    Reason.NO_CREDIT: "The driver has no credit left.",
    Reason.NOT_ALLOWED: "The driver may not charge at this station, or not yet.",
    Reason.UNKNOWN_STATION: "The station is not in the table of stations.",
    Reason.STATION_CLOSED: "The station takes no requests.",
    Reason.AUTHORIZATION_TIMEOUT: "The authorization service did not answer before the request's deadline.",
    Reason.AUTHORIZATION_FAILED: "The authorization service failed, or answered what nobody understands.",
    Reason.PAYMENTS_OFF: "Payments are not collected here (`PAYMENT_PROVIDER=none`).",
    Reason.OTHER_PROVIDER: "The payment was made with another provider than the one that is configured now.",
    Reason.NOT_COMPLETED: "The session is in progress or was cancelled: nothing is owed for it.",
    Reason.NOTHING_TO_PAY: "The session cost nothing, less than the provider can collect, or its cost is not known.",
    Reason.ALREADY_PAID: "The session is paid.",
    Reason.PAYMENT_PROCESSING: "A payment is on its way; `force` makes another link all the same.",
    Reason.LINK_FAILED: "The provider makes no link; `payment.failed` says why.",
    Reason.NOT_PAID: "Nothing was paid that could be given back.",
    Reason.ALREADY_REFUNDED: "All that was paid is given back already, or about to be.",
    Reason.AMOUNT_TOO_LARGE: "The amount is more than what is left of what was paid.",
    Reason.INVALID_AMOUNT: "The currency has no such fraction.",
    Reason.REFUND_FAILED: "The provider does not give the money back; `payment.refund_failed` says why.",
    Reason.TOO_MANY: "The session has had 50 links, or 50 refunds; that many are nobody's intention.",
    Reason.UNKNOWN_PAYMENT: "A provider's event is about no payment of ours.",
}

REVIEW_SENTENCES: Final[Mapping[Review, str]] = {
    Review.STALE: "Nobody stopped the session; it was ended after 24 hours without a sign of life.",
    Review.ENDED_BEFORE_START: "The session's end lies before its start.",
    Review.TOO_LONG: "The session lasted longer than 72 hours.",
    Review.TOO_MUCH_ENERGY: "The session took more than 1,000 kWh.",
    Review.COST_TOO_HIGH: "The session would cost more than 99,999,999.99, the most that can be written down.",
    Review.CLOCK_SKEW: "A meter value or the end lies more than 5 minutes in the future: somebody's clock is wrong.",
}

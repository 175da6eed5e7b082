"""What each reason code means, in a sentence for whoever reads it in an event, a table or a document."""

from collections.abc import Mapping
from typing import Final

from session_worker.session import Reason, Review

REASON_SENTENCES: Final[Mapping[Reason, str]] = {
    Reason.CHARGER_BUSY: "Another session is in progress on this charger, or on this connector of it.",
    Reason.CONCURRENT_SESSION: "The driver already has a session in progress at this station.",
    Reason.UNKNOWN_SESSION: "There is no such session for this caller, and none came within 15 minutes.",
    Reason.ALREADY_ENDED: "The session is completed or cancelled, and an ended session never changes.",
    Reason.SESSION_EXISTS: "A session or request with this id exists already.",
    Reason.STOPPED_BEFORE_START: "A stop or cancel overtook the start, so the session was cancelled as it began.",
    Reason.IDEMPOTENCY_CONFLICT: "A command with this message id came before, with another body.",
    Reason.NOT_PRIVILEGED: "Only an operator may set or remove drivers, stations and tariffs.",
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
}

REVIEW_SENTENCES: Final[Mapping[Review, str]] = {
    Review.STALE: "Nobody stopped the session; it was ended after 24 hours without a sign of life.",
    Review.ENDED_BEFORE_START: "The session's end lies before its start.",
    Review.TOO_LONG: "The session lasted longer than 72 hours.",
    Review.TOO_MUCH_ENERGY: "The session took more than 1,000 kWh.",
    Review.CLOCK_SKEW: "A meter value or the end lies more than 5 minutes in the future: somebody's clock is wrong.",
}

"""What can be concluded from an answer of the carrier."""

from typing import NamedTuple

from batchlic.carrier.answers import Blame, Outcome, TokenKind


class Conclusion(NamedTuple):
    """The outcome of an answer, what a refusal blames, and which token was rejected; see `Answer`."""

    outcome: Outcome
    blame: Blame | None = None
    rejected: TokenKind | None = None
    is_known: bool = False
    is_duplicate: bool = False
    is_inferred: bool = False
    is_partial: bool = False


BAD_DEVICE = Conclusion(Outcome.REFUSED, blame=Blame.DEVICE, is_known=True)
TOO_LARGE = Conclusion(Outcome.REFUSED, blame=Blame.UNKNOWN, is_known=True)
REFUSED_ALL = Conclusion(Outcome.REFUSED, blame=Blame.ACCOUNT)
REFUSED = Conclusion(Outcome.REFUSED, blame=Blame.UNKNOWN)
THROTTLED = Conclusion(Outcome.THROTTLED)
PERHAPS_THROTTLED = Conclusion(Outcome.THROTTLED, is_inferred=True)
UNAVAILABLE = Conclusion(Outcome.UNAVAILABLE)
PERHAPS_UNAVAILABLE = Conclusion(Outcome.UNAVAILABLE, is_inferred=True)
AMBIGUOUS = Conclusion(Outcome.AMBIGUOUS)
PARTIAL = Conclusion(Outcome.AMBIGUOUS, is_partial=True)
DUPLICATE = Conclusion(Outcome.AMBIGUOUS, is_duplicate=True)
PERHAPS_DUPLICATE = Conclusion(Outcome.AMBIGUOUS, is_duplicate=True, is_inferred=True)
BAD_ACCESS = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.ACCESS)
BAD_SESSION = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.SESSION)
BAD_TOKEN = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER)
PERHAPS_BAD_ACCESS = Conclusion(Outcome.AMBIGUOUS, rejected=TokenKind.ACCESS)
PERHAPS_BAD_TOKEN = Conclusion(Outcome.AMBIGUOUS, rejected=TokenKind.EITHER)

ANY_STATUS = range(100, 1000)
CLIENT_ERRORS = range(400, 500)
SERVER_ERRORS = range(500, 1000)
FAILURES = (408, *SERVER_ERRORS)
"""Statuses at which the service itself may have failed after it executed the request."""
NO_FAILURES = tuple(status for status in ANY_STATUS if status not in FAILURES)
EXPIRED = (419, 440, 498)
"""Statuses outside the standard for a session or token that has expired."""
TOO_MANY = (420, 429)
"""Statuses that say by themselves that the request was not executed, whatever the body says."""

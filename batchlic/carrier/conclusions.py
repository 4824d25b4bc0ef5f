"""What can be concluded from an answer of the carrier."""

from typing import NamedTuple

from batchlic.carrier.answers import Blame, Outcome, TokenKind


class Conclusion(NamedTuple):
    """The outcome of an answer, what a refusal blames, and which token was rejected."""

    outcome: Outcome
    blame: Blame | None = None
    rejected: TokenKind | None = None
    is_known: bool = False
    is_duplicate: bool = False
    is_inferred: bool = False


BAD_DEVICE = Conclusion(Outcome.REFUSED, blame=Blame.DEVICE, is_known=True)
TOO_LARGE = Conclusion(Outcome.REFUSED, blame=Blame.UNKNOWN, is_known=True)
REFUSED_ALL = Conclusion(Outcome.REFUSED, blame=Blame.ACCOUNT)
REFUSED = Conclusion(Outcome.REFUSED, blame=Blame.UNKNOWN)
THROTTLED = Conclusion(Outcome.THROTTLED)
PERHAPS_THROTTLED = Conclusion(Outcome.THROTTLED, is_inferred=True)
UNAVAILABLE = Conclusion(Outcome.UNAVAILABLE)
PERHAPS_UNAVAILABLE = Conclusion(Outcome.UNAVAILABLE, is_inferred=True)
AMBIGUOUS = Conclusion(Outcome.AMBIGUOUS)
DUPLICATE = Conclusion(Outcome.AMBIGUOUS, is_duplicate=True)
BAD_ACCESS = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.ACCESS)
BAD_SESSION = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.SESSION)
BAD_TOKEN = Conclusion(Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER)

ANY_STATUS = range(100, 1000)
BELOW_500 = range(100, 500)
CLIENT_ERRORS = range(400, 500)
SERVER_ERRORS = range(500, 1000)

"""What the words of an error mean: duplicates of a request, limits, rejected tokens.

Words are compared as `bodies.as_words` gives them: lower case, single spaces, a bar between sentences.
docs/answers.md is made from these tables.
"""

import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    ANY_STATUS,
    BAD_ACCESS,
    BAD_SESSION,
    DUPLICATE,
    THROTTLED,
    Conclusion,
)


class WordRule(NamedTuple):
    """Words of an error. `unless`: words that give these another meaning. `examples`: matching texts."""

    about: str
    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None
    conclusion: Conclusion
    statuses: Container[int]
    why: str
    examples: tuple[str, ...]

    def fits(self, status: int, words: str) -> bool:
        """Whether the rule applies to an error with this status and these words."""
        return (
            status in self.statuses
            and self.pattern.search(words) is not None
            and (self.unless is None or self.unless.search(words) is None)
        )


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in patterns))


def _one_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_DEVICE = _one_of("devices? imeis? iccids? meids? esns? eids? mdns? sims? lines? identifiers? subscribers?")
_NOT_IN = "".join(f"(?<!{words} )" for words in ("in", "in a", "in the", "in this", "of the", "of this"))
_REQUEST = rf"{_NOT_IN}(?:request|transaction|submission)"
_ID = (
    r"(?:x request id|(?:client )?(?:request|transaction) ids?|requestid|correlation id|client token|"
    r"idempoten\w+ key)"
)
_SUBJECT = rf"(?:{_ID}|{_REQUEST})"
_NUMBER = r"(?=[a-f]*[0-9])[0-9a-f]{1,64}"
_AND = _one_of(
    """
    with for this that the a an same identical given such id ids x request transaction number key header value
    token client api your you are trying to submit submitted sent made identified by is was has have had been
    being currently still appears seems be of license licence assign assignment unassign
    """
)
_BETWEEN = rf"(?: (?:{_AND}|{_NUMBER})){{0,12}}"
"""Words between a request and what happened to it. With a device among them, a text is about the device."""

_DONE = _one_of(
    "processed submitted received accepted executed handled complete completed performed fulfilled seen made "
    "sent"
)
_AT_WORK = r"(?:in progress|in flight|being processed|pending|queued|running|ongoing|concurrent)"
_ALREADY = r"(?:already|previously|earlier) (?:been |being )?"
_TWICE = r"(?:duplicated?|repeated|replayed|resubmitted)"
_KIND_OF = _one_of(
    """
    api client http license licence assign assignment unassign post delete of a an the this previous earlier x
    found detected for value error
    """
)
_IS = r"(?:ids?|keys?|value|header|is|was|has been|appears to be|seems to be|an?|as)"
_USED = (
    rf"(?:already|re ?used?|{_TWICE}|not unique|(?:must|should) be unique|exists|in use|been used|was used|"
    r"used before|conflict)"
)

_DONE_BEFORE = WordRule(
    "the request was seen before",
    _any(
        rf"{_TWICE}(?: {_KIND_OF}){{0,4}} (?:{_ID}|{_REQUEST}s?|message|operation)",
        rf"{_REQUEST}(?: {_IS}){{0,4}} {_TWICE}(?! (?:{_DEVICE}|ids?|items?|entry|entries|values?))",
        rf"{_SUBJECT}{_BETWEEN} {_ALREADY}{_DONE}",
        rf"{_SUBJECT}{_BETWEEN} {_DONE} (?:previously|earlier|before|twice)",
        rf"{_ALREADY}{_DONE} (?:{_AND} ){{0,3}}(?:{_SUBJECT}|operation|message)",
        rf"{_ID}(?: \w+){{0,6}} {_USED}",
        rf"(?:re ?used?|{_TWICE}|not unique|non unique|already used|used) {_ID}",
        r"idempoten\w+ (?:\w+ ){0,4}(?:reused?|conflict|already|mismatch|in use|used|violation|error|exists)",
        r"same idempoten\w+",
        r"replay detected",
    ),
    _any(rf"{_DEVICE}(?: \w+){{0,4}} (?:has|have|had) (?:\w+ ){{0,3}}(?:request|transaction)"),
    DUPLICATE,
    ANY_STATUS,
    "The carrier has seen this request before, so its first sending may have been executed.",
    (
        "Request with this X-Request-ID was already processed",
        "DUPLICATE_REQUEST",
        "Idempotency key reused with a different body",
    ),
)

_OTHER = r"(?:another|other|different|previous|prior|concurrent|simultaneous|parallel)"
_WORK = rf"(?:{_REQUEST}|operation|job|order)s?"
_SHARED = r"(?:accounts?|customers?|companies|company|tenants?|resources?)"

_OTHER_IN_PROGRESS = WordRule(
    "another request is in progress",
    _any(
        rf"{_OTHER} (?:\w+ ){{0,3}}{_WORK}(?: \w+){{0,8}} {_AT_WORK}",
        rf"(?:concurrent|simultaneous|parallel) (?:\w+ ){{0,2}}(?:{_WORK}|updates?|modifications?|access)",
        rf"{_AT_WORK}(?: \w+){{0,5}} {_SHARED}",
        rf"{_SHARED}(?: \w+){{0,6}} {_AT_WORK}",
    ),
    _any(_ID, r"same", r"identical", _TWICE, _DEVICE),
    AMBIGUOUS,
    ANY_STATUS,
    "The text may be about this request or about another one: it does not prove that this one is executed.",
    ("Another transaction is in progress for this account", "Concurrent request"),
)

_IN_PROGRESS = WordRule(
    "the request is in progress",
    _any(
        rf"{_SUBJECT}{_BETWEEN} (?:{_ALREADY})?{_AT_WORK}",
        rf"{_ALREADY}{_AT_WORK}(?: {_AND}){{0,3}} (?:{_SUBJECT}|operation|message)",
        rf"{_AT_WORK} (?:request|transaction)s?",
    ),
    # A device can be in another transaction. Only with an id is the text about this request.
    re.compile(rf"^(?!.*\b{_ID}\b).*\b{_DEVICE}\b"),
    DUPLICATE,
    ANY_STATUS,
    "The first sending of this request is being executed.",
    ("A request with the same transaction id is in progress", "Request already in progress"),
)

_DONE_WITHOUT_SUBJECT = WordRule(
    "already processed",
    _any(rf"{_ALREADY}(?:{_DONE}|{_AT_WORK})"),
    _any(_DEVICE, r"licen[cs]es?", r"skus?", r"accounts?"),
    DUPLICATE,
    ANY_STATUS,
    "The text names nothing else, so it is about the request.",
    ("ALREADY_PROCESSED", "Already submitted"),
)

DUPLICATE_WORDS: Sequence[WordRule] = (
    _DONE_BEFORE,
    _OTHER_IN_PROGRESS,
    _IN_PROGRESS,
    _DONE_WITHOUT_SUBJECT,
)
"""Words about the request. Words about a device ("device already has a license") mean no duplicate."""

SAYS_ALREADY = _any(r"already", r"duplicate (?:license|licence|assignment)")
"""Words of a refusal because a device already has the license, whoever assigned it."""

_LIMIT = r"(?:limits?|quotas?|thresholds?|allowance)"
_REACHED = r"(?:exceeded|exceeds|reached|exhausted|violated|violation|hit|passed)"
_OF_LIMITS = tuple(status for status in range(400, 1000) if status not in {401, 413, 504})
"""A 401 is about a token, a 413 about a size, and a 504 about an answer that did not come."""

REQUEST_WORDS = _any(
    r"requests?", r"calls?", r"quer(?:y|ies)", r"apis?", r"rates?", r"throttl\w*", r"qps", r"tps"
)
"""Words that an error with a code of the service needs to be about a limit of requests."""

TOO_MANY_REQUESTS = WordRule(
    "too many requests",
    _any(
        r"too many (?:\w+ )?(?:requests?|calls|transactions|queries)",
        r"throttl\w*",
        r"rate ?limit(?:s|ed|ing|er)?",
        r"rate (?:is |was |has been )?exceeded",
        r"over (?:the |your )?(?:qps|rate|queries per \w+)",
        r"spike ?arrest\w*",
        r"slow down",
        r"enhance your calm",
        r"(?:requests|calls|queries|transactions|messages|hits) per (?:second|minute|hour|day|month)",
        r"(?:request|call|api|usage|qps|tps|traffic|concurren\w+|bandwidth|call volume) "
        rf"(?:\w+ )?{_LIMIT} (?:\w+ ){{0,3}}{_REACHED}",
        r"quota ?violation",
        r"out of call volume quota",
    ),
    _any(
        r"(?:request|body|payload|header|entity)s? (?:\w+ )?(?:size|length)",
        r"failed (?:logins?|attempts?)",
        _DEVICE,
    ),
    THROTTLED,
    _OF_LIMITS,
    "The gateway's limiter answered in place of the service.",
    ("Developer Over Rate", "API rate limit exceeded", "Rate exceeded", "SpikeArrestViolation"),
)

LIMIT_REACHED = WordRule(
    "a limit or a quota",
    _any(
        rf"{_LIMIT} (?:\w+ ){{0,3}}{_REACHED}",
        rf"(?:exceed(?:ed|s|ing)?|reached|exhausted|over) (?:\w+ ){{0,4}}{_LIMIT}",
    ),
    _any(
        r"licen[cs]\w*",
        r"sku\w*",
        r"subscription\w*",
        r"entitlement\w*",
        r"header\w*",
        _one_of(
            "inventory seats? size length bytes characters? entity body payload fields? storage credit "
            "assignments? quantity purchased? orders? contracts?"
        ),
        _DEVICE,
    ),
    THROTTLED,
    tuple(status for status in _OF_LIMITS if status < 500),
    "A limit of requests, unless the text names something else: licenses, devices, sizes. With a code of "
    "the service, the text must mention requests.",
    ("Quota exceeded", "You have reached your limit"),
)

_REJECTED = r"(?:expired|invalid|not valid|timed out|missing|revoked)"
_ACCESS = r"(?:jwt|(?:access|bearer|oauth) token)"
_SESSION = r"(?:session(?: token)?|vz m2m token)"

TOKEN_WORDS: Sequence[WordRule] = (
    WordRule(
        "the session",
        _any(rf"{_SESSION}(?: \w+){{0,4}} {_REJECTED}", rf"{_REJECTED} {_SESSION}"),
        None,
        BAD_SESSION,
        (400, 401, 403),
        "Tokens are checked before the request is executed.",
        ("The session has expired", "Invalid session token"),
    ),
    WordRule(
        "the access token",
        _any(
            rf"{_ACCESS}(?: \w+){{0,4}} {_REJECTED}",
            rf"{_REJECTED} {_ACCESS}",
            r"(?<![^|] )invalid token(?= \||$)",
            r"error invalid token",  # in WWW-Authenticate (RFC 6750, 3)
        ),
        None,
        BAD_ACCESS,
        (400, 401, 403),
        "Tokens are checked before the request is executed.",
        ("Jwt is expired", "invalid_token"),
    ),
)

LIMIT_HEADERS = ("x-mashery-error-code", "x-error-detail-header", "x-mashery-message", "x-amzn-errortype")
"""Headers in which gateways name the error. Their words count like those of the body."""

"""What the words of an error mean: duplicates of a request, limits, rejected tokens.

Words are compared as `bodies.as_words` gives them: lower case, single spaces, a bar between sentences.
docs/reference/answers.md is made from these tables.
"""

import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    ANY_STATUS,
    BAD_ACCESS,
    BAD_SESSION,
    BAD_TOKEN,
    CLIENT_ERRORS,
    DUPLICATE,
    EXPIRED,
    PERHAPS_DUPLICATE,
    PERHAPS_THROTTLED,
    THROTTLED,
    Conclusion,
)


class WordRule(NamedTuple):
    """Words of an error.

    - `unless`: words anywhere in the text that give these another meaning.
    - `unless_before`: words in front of these, in the same clause, that do so.
    - `unless_beside`: words in the same sentence that do so.
    - `examples`: matching texts.
    """

    about: str
    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None
    conclusion: Conclusion
    statuses: Container[int]
    why: str
    examples: tuple[str, ...]
    unless_before: re.Pattern[str] | None = None
    unless_beside: re.Pattern[str] | None = None

    def fits(self, status: int, words: str) -> bool:
        """Whether the rule applies to an error with this status and these words."""
        if status not in self.statuses or _has(self.unless, words):
            return False
        return any(self._fits_sentence(sentence) for sentence in words.split(" | "))

    def _fits_sentence(self, sentence: str) -> bool:
        if _has(self.unless_beside, sentence):
            return False
        clauses = (_CLAUSE.split(sentence[: found.end()])[-1] for found in self.pattern.finditer(sentence))
        return any(not _has(self.unless_before, clause) for clause in clauses)


_CLAUSE = re.compile(r"\b(?:because|since|reason|due to|as the)\b")
"""Begins a clause: a negation in front of it is not about what follows."""


def _has(pattern: re.Pattern[str] | None, words: str) -> bool:
    return pattern is not None and pattern.search(words) is not None


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in patterns))


def _one_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_DEVICE = _one_of("devices? imeis? iccids? meids? esns? eids? mdns? sims? lines? identifiers? subscribers?")
_NOT_IN = "".join(f"(?<!{words} )" for words in ("in", "in a", "in the", "in this", "of the", "of this"))
_PART_OF_REQUEST = _one_of(
    "ids? body parameters? params? fields? headers? attributes? propert(?:y|ies) payload contains? lists?"
)
_REQUEST = rf"{_NOT_IN}(?:request|transaction|submission)(?! {_PART_OF_REQUEST}\b)"
_ID = (
    r"(?:x request id|(?:client )?(?:request|transaction) ids?|requestid|correlation id|client token|"
    r"idempoten\w+ key)"
)
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
    "processed submitted received accepted executed handled complete completed performed fulfilled committed "
    "consumed seen made sent"
)
_BEFORE = r"(?:(?:previously|earlier|before|twice)(?= \||$)|twice)"
_WAITS_FOR = _one_of("approval activation payment review confirmation verification")
_AT_WORK = (
    rf"(?:in progress|in flight|being processed|pending(?! {_WAITS_FOR})|queued|running|ongoing|underway)"
)
_ALREADY = r"(?:already|previously|earlier) (?:been |being )?"
_TWICE = r"(?:duplicated?|repeated|replayed|resubmitted)"
_KIND_OF = _one_of(
    """
    api client http license licence assign assignment unassign post delete of a an the this previous earlier
    found detected for value error delivery copy sending
    """
)
_IS = r"(?:ids?|keys?|value|header|is|was|has been|appears to be|seems to be|an?|as)"
_USED = (
    rf"(?:already (?:used|exists?|in use|known|present|registered|taken|seen|received)|re ?used?|{_TWICE}|"
    r"not unique|exists|in use|been used|was used|used before)"
)
_ABOUT_ID = _one_of(
    """
    the this that same given supplied provided specified value key header number id is was has have been being
    currently still with of appears to be seems a an
    """
)

LIMITS = _any(
    r"too (?:many|often|fast|frequent\w*|quickly|soon)",
    r"limit\w*",
    r"quotas?",
    r"max(?:imum)?",
    r"exceed\w*",
    r"throttl\w*",
    r"concurren\w*",
    r"simultaneous\w*",
    r"parallel\w*",
    r"rates?",
    r"capacity",
    r"thresholds?",
    r"over ?load\w*",
    r"busy",
    r"slow down",
    r"spike ?arrest\w*",
    r"per (?:second|minute|hour|day|month)",
    r"(?:queue|backlog) (?:is )?full",
)
"""Words about how much may be sent. With one of them, a text never means a duplicate."""

_DENIED = _any(
    r"no",
    r"(?:can)?not(?! unique| be re ?used| re ?use)",
    r"(?:does|do|is|was|has|have|can|could|did) ?n ?t",
    _one_of("never none nor neither without unknown if whether ensure check verify unless until please"),
)
"""Words that say the opposite of what follows, or that it is only a condition."""

_PERHAPS = _any(_one_of("may might could possibly perhaps or either"))
_OTHERS = _one_of("another other others different else elsewhere newer later similar someone users? account")
_OTHER_REQUEST = (
    r"(?<!of )(?<!of a )(?<!of an )(?<!of the )"
    rf"(?:an?|any|one|each|every|previous|earlier|prior|last|other|another|newer|{_DEVICE}) "
    rf"(?:(?!same|identical|duplicate|repeated)\w+ )?{_REQUEST}"
)

_BY_ID = (
    rf"{_TWICE}(?: {_KIND_OF}){{0,4}} {_ID}(?! (?:headers?(?! value)|fields?))",
    rf"{_ID}{_BETWEEN} {_ALREADY}(?:{_DONE}|{_AT_WORK})",
    rf"{_ID}{_BETWEEN} {_AT_WORK}",
    rf"{_ID}{_BETWEEN} {_DONE} {_BEFORE}",
    rf"{_ALREADY}(?:{_DONE}|{_AT_WORK}) (?:{_AND} ){{1,5}}{_ID}",
    rf"{_ID}(?: (?:{_ABOUT_ID}|{_NUMBER})){{0,8}} {_USED}",
    rf"{_ID} conflict",
    rf"(?:re ?used?|not unique|non unique|(?:already|previously) used) {_ID}",
    r"idempoten\w+ (?:\w+ ){0,4}(?:reused?|conflict|already|mismatch|in use|used|violation|error|exists)",
    r"same idempoten\w+",
)
_BY_REQUEST = (
    rf"{_TWICE}(?: {_KIND_OF}){{0,4}} (?:{_REQUEST}s?|message|operation)",
    rf"{_REQUEST}(?: {_IS}){{0,4}} {_TWICE}(?! (?:{_DEVICE}|ids?|items?|entry|entries|values?))",
    rf"{_REQUEST}{_BETWEEN} {_ALREADY}{_DONE}",
    rf"{_REQUEST}{_BETWEEN} {_DONE} {_BEFORE}",
    rf"{_ALREADY}{_DONE} (?:{_AND} ){{0,3}}(?:{_REQUEST}|operation|message)",
    rf"(?:this|same|identical|your) {_REQUEST}{_BETWEEN} (?:{_ALREADY})?{_AT_WORK}",
    rf"the {_REQUEST}{_BETWEEN} {_ALREADY}{_AT_WORK}",
    rf"{_ALREADY}{_AT_WORK} (?:this|same) {_REQUEST}",
)
_ABOUT_ANOTHER_REQUEST = re.compile(rf"{_DENIED.pattern}|\b{_OTHER_REQUEST}\b")

_ID_SEEN = WordRule(
    "the id of the request was seen before",
    _any(*_BY_ID),
    LIMITS,
    DUPLICATE,
    ANY_STATUS,
    "The carrier has seen this request before, so its first sending may have been executed.",
    (
        "Request with this X-Request-ID was already processed",
        "Idempotency key reused with a different body",
        "A request with the same transaction id is in progress",
    ),
    unless_before=re.compile(rf"{_DENIED.pattern}|{_PERHAPS.pattern}"),
)

_REQUEST_SEEN = WordRule(
    "the request was seen before",
    _any(*_BY_REQUEST),
    LIMITS,
    DUPLICATE,
    ANY_STATUS,
    "The carrier has seen this request before, so its first sending may have been executed.",
    ("DUPLICATE_REQUEST", "This request is already in progress"),
    unless_before=re.compile(rf"{_ABOUT_ANOTHER_REQUEST.pattern}|{_PERHAPS.pattern}"),
    unless_beside=_any(_DEVICE, _OTHERS, r"accounts?", r"skus?"),
)

_PERHAPS_SEEN = WordRule(
    "the request was perhaps seen before",
    _any(
        *_BY_ID,
        *_BY_REQUEST,
        rf"{_ID}(?: {_ABOUT_ID}){{0,3}} (?:must|should) be unique",
        rf"{_ID}(?: {_ABOUT_ID}){{0,3}} (?:can ?|must |may )not be re ?used",
        rf"(?:can ?|must |may |do )not re ?use (?:{_ABOUT_ID} ){{0,3}}{_ID}",
        rf"(?:{_REQUEST}|{_ID}) (?:may|might|could) (?:have )?(?:already )?(?:have )?(?:been )?{_DONE}",
        r"replay detected",
        r"request replay",
    ),
    LIMITS,
    PERHAPS_DUPLICATE,
    ANY_STATUS,
    "The text may be about this request or about another one, for the same devices or the same account.",
    ("Duplicate request for this account", "The transaction id must be unique", "Replay detected"),
    unless_before=_ABOUT_ANOTHER_REQUEST,
    unless_beside=_any(
        r"(?:missing|required|mandatory|invalid|malformed|empty) (?:\w+ ){0,8}(?:must|should) be unique",
        rf"{_DEVICE}(?: \w+){{0,4}} (?:has|have|had) (?:\w+ ){{0,3}}(?:request|transaction)",
    ),
)

_DONE_WITHOUT_SUBJECT = WordRule(
    "already processed",
    _any(rf"{_ALREADY}{_DONE}"),
    _any(LIMITS.pattern, _DEVICE, _OTHERS, r"licen[cs]es?", r"skus?", r"accounts?"),
    PERHAPS_DUPLICATE,
    ANY_STATUS,
    "The text names nothing else, so it may be about the request.",
    ("ALREADY_PROCESSED", "Already submitted"),
    unless_before=_ABOUT_ANOTHER_REQUEST,
)

NAMES_ID = _any(rf"(?:same|this|that|identical|duplicate) {_ID}")
"""Words about the id of this request, rather than an id for the carrier's support."""

DUPLICATE_WORDS: Sequence[WordRule] = (_ID_SEEN, _REQUEST_SEEN, _PERHAPS_SEEN, _DONE_WITHOUT_SUBJECT)
"""Words about the request. Words about a device ("device already has a license") mean no duplicate."""

_LIMIT = r"(?:limits?|quotas?|thresholds?|allowance)"
_REACHED = r"(?:exceeded|exceeds|reached|exhausted|violated|violation|hit|passed)"
_OF_LIMITS = tuple(status for status in range(400, 1000) if status not in {401, 413, 504})
"""A 401 is about a token, a 413 about a size, and a 504 about an answer that did not come."""

REQUEST_WORDS = _any(
    r"requests?", r"calls?", r"quer(?:y|ies)", r"apis?", r"rates?", r"throttl\w*", r"qps", r"tps"
)
"""Words that an error with a code of the service needs to be about a limit of requests."""

_SENT = (
    r"(?:requests?|calls?|transactions?|quer(?:y|ies)|operations?|jobs?|connections?|submissions?|updates?)"
)
_WORK = rf"(?:{_SENT}|orders?)"
_SHARED = r"(?:accounts?|customers?|compan(?:y|ies)|tenants?|resources?)"
_AT_ONCE = (
    r"(?:concurrent|simultaneous|parallel|pending|open|active|outstanding|queued|running|ongoing|in flight|"
    r"in progress)"
)

TOO_MANY_REQUESTS = WordRule(
    "too many requests",
    _any(
        rf"too many (?:\w+ ){{0,4}}{_SENT}",
        rf"(?:max(?:imum)?|allowed|permitted) (?:number|count|amount) of (?:\w+ ){{0,4}}{_SENT}",
        rf"max(?:imum)? (?:\w+ )?{_AT_ONCE} (?:\w+ ){{0,2}}{_SENT}",
        rf"number of (?:\w+ ){{0,3}}{_SENT} (?:\w+ ){{0,6}}(?:exceed\w*|limit|maximum|reached)",
        rf"{_AT_ONCE} (?:\w+ ){{0,2}}{_SENT} (?:\w+ ){{0,4}}(?:exceed\w*|limit|maximum|reached)",
        r"concurrency (?:\w+ ){0,3}(?:exceed\w*|limit\w*|reached)",
        r"(?:max(?:imum)?|exceed\w*|over) (?:\w+ ){0,3}concurrency",
        r"throttl\w*",
        r"rate ?limit(?:s|ed|ing|er)?",
        r"(?:rate|throughput) (?:is |was |has been |already )?exceeded",
        r"rate (?:is |was )?too high",
        r"exceed\w* (?:\w+ ){0,3}(?:call volume|throughput)",
        rf"{_SENT} (?:\w+ ){{0,5}}too (?:often|frequently|fast|quickly)",
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

OTHER_REQUEST_AT_WORK = WordRule(
    "another request at work",
    _any(
        rf"{_WORK}(?: (?:{_AND}|{_NUMBER}|{_SHARED}|on|in|already|now|another)){{0,8}} {_AT_WORK}",
        rf"{_AT_ONCE} (?:\w+ ){{0,2}}{_WORK}",
        rf"(?:concurren\w*|simultaneous|parallel) (?:\w+ ){{0,3}}(?:{_WORK}|access|modifications?)",
        rf"locked by (?:\w+ ){{0,2}}{_WORK}",
    ),
    _any(_DEVICE, rf"pending {_WAITS_FOR}"),
    PERHAPS_THROTTLED,
    tuple(status for status in _OF_LIMITS if status != 404),
    "The account can have one request at a time, or this request was sent twice at once.",
    (
        "Another request is in progress for this account",
        "Concurrent request",
        "The account has a pending job",
    ),
)

_DONE_TO_SOME = r"(?:accepted|processed|completed|assigned|unassigned|licensed)"


def _some_of_all(name: str) -> str:
    """Two numbers such as "40 of 100", unless they are equal. The name is that of a group."""
    return rf"(?!(?P<{name}>\d+) (?:out )?of (?:the )?(?P={name})\b)[1-9]\d* (?:out )?of (?:the )?\d+"


_WERE = r"(?:(?:were|was|have been|has been) )?(?:successfully )?"
_OF_REQUEST = r"(?:requests?|calls?|reads?|responses?|upstream|gateway|endpoint|backend|transactions?)"

PERHAPS_EXECUTED: Sequence[WordRule] = (
    WordRule(
        "an answer that was lost behind the service",
        _any(
            r"timed out",
            r"(?<!set )time ?out",
            r"connection (?:was |has been )?(?:reset|closed|aborted|lost)",
            r"broken pipe",
            r"unexpected end of (?:file|stream) from server",
        ),
        _any(r"sessions?", r"tokens?", r"log ?in", r"authentication"),
        AMBIGUOUS,
        tuple(status for status in CLIENT_ERRORS if status not in {407, 408, 421, 425, *EXPIRED}),
        "What answers here lost the answer of a system behind it, which may have executed the request.",
        ("Read timed out", "REQUEST_FAILED.Timeout", "Connection reset"),
        unless_beside=re.compile(
            rf"^(?!.*\b{_OF_REQUEST}\b).*\b{_DEVICE}\b|"
            r"\b(?:fields?|param(?:eter)?s?|headers?|attributes?|propert(?:y|ies))\b"
        ),
    ),
    WordRule(
        "a part of the request",
        _any(
            rf"part(?:ial(?:ly)?|ly) {_DONE_TO_SOME}",
            rf"{_some_of_all('some')} (?:devices?|lines?|items?) {_WERE}{_DONE_TO_SOME}"
            r"(?! to another account)",
        ),
        None,
        AMBIGUOUS,
        CLIENT_ERRORS,
        "The service executed a part of the request before it failed.",
        ("Partially processed", "40 of 100 devices were assigned"),
    ),
    WordRule(
        "a part of the request, unless it is one of the licenses",
        _any(
            rf"{_DONE_TO_SOME} {_some_of_all('first')}",
            rf"{_some_of_all('second')} {_WERE}{_DONE_TO_SOME}",
        ),
        _any(r"licen[cs]es", r"licen[cs]e not available", r"insufficient", r"another account"),
        AMBIGUOUS,
        CLIENT_ERRORS,
        "The service executed a part of the request before it failed.",
        ("Processed 40 out of 100", "40 of 100 were assigned"),
    ),
)
"""Words of a 4xx that does not prove that nothing was executed. The tables before it count more."""

_REJECTED = r"(?:expired|invalid|not valid|timed out|missing|revoked)"
_ACCESS = r"(?:jwt|(?:access|bearer|oauth) token)"
_SESSION = r"(?:session(?: token)?|vz m2 ?m token(?: header)?)"
_ENDED = (
    r"(?:ended|closed|terminated|(?:could )?not (?:be )?found|unknown|no longer (?:valid|active|exists)|"
    r"time ?out|inactive|not active|(?:does not|doesn ?t) exist)"
)
_LOG_IN = r"(?:re ?)?(?:log ?in|sign ?in|authenticate)"

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
        "the session, unless it is one of a device",
        _any(
            rf"{_SESSION}(?: (?:has|is|was|been|id))* {_ENDED}",
            rf"{_SESSION}(?: \w+){{1,4}} no longer (?:valid|active|exists)",
            rf"(?:unknown|bad|wrong|inactive|unauthori[sz]ed|unrecogni[sz]ed) {_SESSION}",
            r"no (?:active |valid )?session",
        ),
        _any(_DEVICE, "data session"),
        BAD_SESSION,
        (400, 401, 403),
        "Tokens are checked before the request is executed.",
        ("The session has ended", "No active session", "Session timeout"),
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
    WordRule(
        "a token, or the login",
        _any(
            r"token (?:has |is |was )?(?:already )?(?:expired|revoked|no longer valid)",
            r"token (?:is )?(?:invalid|not valid|inactive|not active)",
            r"login (?:has )?expired",
            r"not (?:logged in|signed in|authenticated)",
            rf"(?:please|must|need to|have to) {_LOG_IN}",
            r"(?:authentication|login) (?:is )?required",
        ),
        _any(_DEVICE),
        BAD_TOKEN,
        (400, 401, 403),
        "Tokens are checked before the request is executed.",
        ("Token has expired", "Authentication required"),
    ),
)

LIMIT_HEADERS = ("x-mashery-error-code", "x-error-detail-header", "x-mashery-message", "x-amzn-errortype")
"""Headers in which gateways name the error. Their words count like those of the body."""

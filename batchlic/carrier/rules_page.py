"""Writes docs/answers.md from the tables: `python -m batchlic.carrier.rules_page > docs/answers.md`."""

import sys
from collections.abc import Container, Iterable, Sequence

from batchlic.carrier.answers import Blame, Outcome, TokenKind
from batchlic.carrier.conclusions import (
    ANY_STATUS,
    BELOW_500,
    CLIENT_ERRORS,
    DUPLICATE,
    SERVER_ERRORS,
    THROTTLED,
    Conclusion,
)
from batchlic.carrier.rules import BY_ERROR, BY_STATUS, CODE_PATTERNS, CODES, RETRY_LATER
from batchlic.carrier.signs import SIGNS
from batchlic.carrier.words import (
    DONE_WITHOUT_SUBJECT,
    DUPLICATE_WORDS,
    LIMIT_HEADERS,
    LIMIT_WORDS,
    TOKEN_WORDS,
)

_INTRODUCTION = """\
# What an answer means

This page is made from the tables `rules.py`, `words.py` and `signs.py` in `batchlic/carrier/`. Change it
there, then run `make docs-answers`. A test compares both.

| conclusion | executed | what follows |
| --- | --- | --- |
| accepted | yes | A callback will confirm each device. |
| throttled | no | All workers wait as long as the carrier asks; then the request is sent again. |
| unavailable | no | The request is sent again: a gateway answered, or nobody. |
| unauthorized | no | The token is renewed once for all workers; then the request is sent again. |
| refused | no | See below. |
| ambiguous | perhaps | The devices are in doubt (promise D). |

**Accepted** is only a complete 2xx whose JSON has a readable `requestId` and no error beside it. A byte order
mark, control characters, NaN, a letter in Latin-1 or text after the JSON do no harm.

**Refused** names what it blames. If a device or an unknown reason is to blame, the batch is split. If the
whole request is to blame, splitting does not help. A documented code is definite. Any other refusal ends a
device only while the carrier accepts other requests.

Everything else is concluded from the first table below that has a rule for the answer. Bodies are read
tolerantly: JSON that is damaged or cut short, XML, HTML and plain text, in UTF-8, UTF-16 or Latin-1.
"""

_HINTS = """\
## How long to wait

The longest of the headers `Retry-After`, `X-Retry-After`, `Retry-After-Ms` and `X-Ms-Retry-After-Ms` counts.
Without one, the first of these counts: `nextAccessTime` or `retryAfter` anywhere in the body; words such as
"Try again in 5 seconds"; the reset of a used-up quota.

A wait is a number of seconds, a duration (`4s`, `PT4S`, `2 minutes`), a date (as in HTTP, ISO 8601, Java or
the gateway's form) or a time since 1970 in seconds or smaller units. Quotes, a sign and lists are read, too.
Moments are compared with the answer's own `Date`, or with the local clock where that gives no plausible wait.
A wait of more than a day counts as one day.
"""

_REFUSALS = {
    Blame.DEVICE: "refused: a device",
    Blame.ACCOUNT: "refused: the whole request",
    Blame.UNKNOWN: "refused: unknown reason",
}
_TOKENS = {
    TokenKind.ACCESS: "unauthorized: access token",
    TokenKind.SESSION: "unauthorized: session token",
    TokenKind.EITHER: "unauthorized: either token",
}


def page() -> str:
    """The whole page, as Markdown."""
    sections = (
        _INTRODUCTION,
        _section(
            "## Codes",
            "The first known code anywhere in the body decides. Service names are left out.",
            ("code", "at", "conclusion", "why"),
            (
                (_listed(rule.codes), _statuses(rule.statuses), _said(rule.conclusion), rule.why)
                for rule in CODES
            ),
        ),
        _section(
            "## Words of a rejected token",
            "Also in the header `WWW-Authenticate`.",
            ("about", "for example", "at", "conclusion", "why"),
            (
                (
                    rule.about,
                    _listed(rule.examples),
                    _statuses(rule.statuses),
                    _said(rule.conclusion),
                    rule.why,
                )
                for rule in TOKEN_WORDS
            ),
        ),
        _section(
            "## Words of a duplicate",
            'Words about a device ("Device already has a license") are no duplicate of the request.',
            ("about", "for example", "conclusion", "why"),
            (
                (rule.about, _listed(rule.examples), _said(rule.conclusion), rule.why)
                for rule in (DUPLICATE_WORDS, DONE_WITHOUT_SUBJECT)
            ),
        ),
        _section(
            "## Limits",
            f"Words are also read in {_listed(_title(name) for name in LIMIT_HEADERS)}.",
            ("shown by", "at", "conclusion", "why"),
            (
                *(
                    (_listed(rule.examples), _statuses(rule.statuses), _said(rule.conclusion), rule.why)
                    for rule in LIMIT_WORDS
                ),
                ("`nextAccessTime`", "any", _said(THROTTLED), "Only the gateway's throttling sends it."),
                ("`X-Envoy-RateLimited`", "4xx, 5xx", _said(THROTTLED), "Envoy's limiter answered."),
                (
                    "`Retry-After`",
                    _statuses(RETRY_LATER),
                    _said(THROTTLED),
                    "A refusal needs no second try, so this is a limit.",
                ),
                (
                    "`X-RateLimit-Remaining: 0`",
                    f"403; {_statuses(RETRY_LATER)} without a code of the service",
                    _said(THROTTLED),
                    "The quota is used up.",
                ),
            ),
        ),
        _section(
            "## Codes that say little",
            "At a 4xx.",
            ("code", "conclusion", "why"),
            ((f"`{rule.codes}`", _said(rule.conclusion), rule.why) for rule in CODE_PATTERNS),
        ),
        _section(
            "## Signs of a gateway",
            "At a 5xx. A gateway answers 503, 502 or 504 before it passes a request on, and also when it "
            "loses the answer. These signs show which of the two happened; the first one counts.",
            ("gateway", "for example", "at", "conclusion", "why"),
            (
                (
                    sign.gateway,
                    f"`{sign.example}`",
                    _statuses(sign.statuses),
                    _said(sign.conclusion),
                    sign.why,
                )
                for sign in SIGNS
            ),
        ),
        _section(
            "## Statuses",
            "An error of the service has a field `errorCode`, or a code of the platform. Any other body is a "
            "gateway's JSON, XML, HTML, text, or nothing.",
            ("status", "error of the service", "any other body", "why"),
            (
                (_statuses(rule.statuses), _said(rule.coded), _said(rule.other), rule.why)
                for rule in BY_STATUS
            ),
        ),
        _section(
            "## No status",
            "Errors of the connection.",
            ("error", "conclusion", "why"),
            ((f"`{rule.error.__name__}`", _said(rule.conclusion), rule.why) for rule in BY_ERROR),
        ),
        _HINTS,
    )
    return "\n".join(sections)


def _section(title: str, lead: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}\n\n{lead}\n\n{table}\n"


def _said(conclusion: Conclusion) -> str:
    if conclusion == DUPLICATE:
        return "ambiguous: a duplicate"
    if conclusion.blame is not None:
        return _REFUSALS[conclusion.blame] + (" (documented)" if conclusion.is_known else "")
    if conclusion.rejected is not None:
        return _TOKENS[conclusion.rejected]
    return Outcome(conclusion.outcome).value


def _statuses(statuses: Container[int]) -> str:
    """Statuses in short: "4xx", "any", or a list with ranges."""
    names = {ANY_STATUS: "any", BELOW_500: "below 500", CLIENT_ERRORS: "4xx", SERVER_ERRORS: "5xx"}
    if isinstance(statuses, range) and statuses in names:
        return names[statuses]
    listed = [status for status in ANY_STATUS if status in statuses]
    starts = [status for status in listed if status - 1 not in listed]
    ends = [status for status in listed if status + 1 not in listed]
    return ", ".join(
        f"{start}" if start == end else f"{start} to {599 if end == ANY_STATUS[-1] else end}"
        for start, end in zip(starts, ends, strict=True)
    )


def _listed(items: Iterable[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _title(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


if __name__ == "__main__":
    sys.stdout.write(page())

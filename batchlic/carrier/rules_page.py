"""Writes the page docs/reference/answers.md from the tables (`make docs-answers`)."""

import sys
from collections.abc import Container, Iterable, Sequence

from batchlic.carrier.answers import Blame, Outcome, TokenKind
from batchlic.carrier.conclusions import (
    ANY_STATUS,
    CLIENT_ERRORS,
    FAILURES,
    NO_FAILURES,
    SERVER_ERRORS,
    THROTTLED,
    Conclusion,
)
from batchlic.carrier.rules import BY_ERROR, BY_STATUS, CODE_PATTERNS, CODES, RETRY_LATER
from batchlic.carrier.signs import SIGNS
from batchlic.carrier.words import (
    DUPLICATE_WORDS,
    LIMIT_HEADERS,
    LIMIT_REACHED,
    OTHER_REQUEST_AT_WORK,
    PERHAPS_EXECUTED,
    TOKEN_WORDS,
    TOO_MANY_REQUESTS,
    WordRule,
)

_INTRODUCTION = """\
# What an answer means

This page is generated from the tables in `rules.py`, `words.py` and `signs.py` in `batchlic/carrier/`. Change
the tables, then run `make docs-answers`. A test compares the page with the tables.

| conclusion | executed | what follows |
| --- | --- | --- |
| accepted | yes | A callback reports the outcome of each device. |
| throttled | no | All workers wait as long as the carrier asks; then the request is sent again. |
| unavailable | no | The request did not reach the license service. It is sent again. |
| unauthorized | no | The token is renewed once for all workers; then the request is sent again. |
| refused | no | The batch is split, or its devices fail; see below. |
| ambiguous | perhaps | The devices are in doubt (promise D). |

An answer is **accepted** only if it is a complete 2xx whose JSON has a readable `requestId` and no error. A
byte order mark, control characters, NaN, a letter in Latin-1 or text after the JSON do not matter. A second
JSON object or a page after the JSON does. The text `null` or a GUID of zeros is no `requestId`. Errors are:

- an error field, `"errorCode"` or `"soap:Fault"`, unless its value is null, zero or a word such as "Success",
- a field that denies success: `"success": "false"`,
- a status, a code or a text that names a failure: `"status": "TIMED_OUT"`, `"responseCode": 500`,
  `"message": "Bad Request"`.

Names of fields count in any spelling: `errorCode`, `error_code`, `ns2:ErrorCode`.

An answer may have a `requestId` but say that some devices were not accepted: `"status": "PartialFailure"`, a
list or a number of failed devices (also in a summary: `"results": {"failed": 2}`), an error of one device, or
a value that is an error code of the service. It is ambiguous, and the batch is not sent again: callbacks
report each device.

A 2xx with a `requestId`, or with a field that names a device, may look throttled, unavailable or
unauthorized. That only suggests that the request was not executed: a Lifetime license stays in doubt.

An answer that is **refused** blames a device, the whole request, or nothing known. If it blames the whole
request, splitting the batch does not help, and no device fails. Otherwise the batch is split. A documented
code fails a device. With any other code, a device fails only while the carrier
[accepts other requests](../how-to/recovery.md#when-the-carrier-refuses).

If a license can't be taken back, batchlic errs on the side of doubt. Some answers only suggest that the
request was not executed. "Lifetime: ambiguous" marks them.

A 420 or 429 is throttled, whatever its body says. For every other answer, the first table below with a
matching rule decides. batchlic reads JSON (even if it is
damaged or cut short), XML, HTML and plain text, in UTF-8, UTF-16 or Latin-1.
"""

_HINTS = """\
## How long to wait

The longest of the headers `Retry-After`, `X-Retry-After` and `X-RateLimit-Retry-After` counts. Their names
may have a unit: `Retry-After-Ms`, `X-Rate-Limit-Retry-After-Seconds`. A proxy that does not connect may send
them, too. Without one, the first of these counts:

- `nextAccessTime`, `retryAfter`, `retryAfterMs` and their other spellings, anywhere in the body,
- `waitTime` anywhere in the body, if its value has a unit,
- words such as "Try again in 5 seconds", "Please wait 8 seconds" or "Retry after 60",
- the reset time of a used-up quota.

Rate-limit headers may have several policies or lists. The one that leaves the fewest requests counts.
Policies that count bytes or concurrent requests don't.

A wait is a number of seconds, a duration (`4s`, `PT4S`, `2 minutes`, `1 day`, `00:05:00`), a date (as in
HTTP, ISO 8601, Java or the gateway's form) or a time since 1970 in seconds or smaller units. Quotes, a sign
and lists are allowed. A date with a time zone of an unknown name is not read, nor is a time of day in words
("Retry after 14:30:00"). Moments are compared with the answer's own `Date`, or with the local clock if `Date`
gives no plausible wait.
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
    tables = (
        _codes,
        _words_of_tokens,
        _words_of_duplicates,
        _limits,
        _words_of_an_execution,
        _vague_codes,
        _signs,
        _by_status,
        _connection_errors,
    )
    return "\n".join([_INTRODUCTION, *(table() for table in tables), _HINTS])


def _codes() -> str:
    rows = (
        (_listed(rule.codes), _statuses(rule.statuses), _said(rule.conclusion), rule.why) for rule in CODES
    )
    return _section(
        "## Codes",
        "The first known code anywhere in the body decides. Codes are compared without the service name. If "
        "the service itself fails (a code of the service at a 5xx or a 408), only that code counts. Then the "
        "answer is ambiguous, unless the code shows throttling or a rejected session.",
        ("code", "at", "conclusion", "why"),
        rows,
    )


def _words_of_tokens() -> str:
    return _section(
        "## Words of a rejected token",
        "They count in the body and in the header `WWW-Authenticate`.",
        ("about", "for example", "at", "conclusion", "why"),
        ((rule.about, *_words(rule)) for rule in TOKEN_WORDS),
    )


def _words_of_duplicates() -> str:
    return _section(
        "## Words of a duplicate",
        'Words about a device ("Device already has a license") or about another request do not mean a '
        "duplicate. A text with words about limits or concurrency never does. Only a text about the id, or "
        "about this request, shows that the first request was executed. After a text that is perhaps about "
        'another request, the devices stay in doubt. What a refusal with "already" shows is explained in '
        "[recovery](../how-to/recovery.md#devices-in-doubt).",
        ("about", "for example", "at", "conclusion", "why"),
        ((rule.about, *_words(rule)) for rule in DUPLICATE_WORDS),
    )


def _limits() -> str:
    throttled, retry_later = _said(THROTTLED), _statuses(RETRY_LATER)
    return _section(
        "## Limits",
        f"Words count in the body and in {_listed(_title(name) for name in LIMIT_HEADERS)}. At a 408 "
        "or a 5xx, or about the id of the request, they only suggest throttling: a Lifetime license stays in "
        "doubt.",
        ("shown by", "at", "conclusion", "why"),
        (
            *map(_words, (TOO_MANY_REQUESTS, LIMIT_REACHED, OTHER_REQUEST_AT_WORK)),
            ("`nextAccessTime`", "any", throttled, "A gateway sends this field only when it throttles."),
            ("`X-Envoy-RateLimited`", "4xx, 5xx", throttled, "Envoy's limiter answered."),
            ("`Retry-After`", retry_later, throttled, "A refusal does not ask to try again."),
            (
                "`X-RateLimit-Remaining: 0`",
                f"403; {retry_later} without a code of the service",
                throttled,
                "The quota is used up.",
            ),
        ),
    )


def _words_of_an_execution() -> str:
    return _section(
        "## Words of a request that was perhaps executed",
        "They count at a 4xx, if no table above decides.",
        ("about", "for example", "at", "conclusion", "why"),
        ((rule.about, *_words(rule)) for rule in PERHAPS_EXECUTED),
    )


def _vague_codes() -> str:
    return _section(
        "## Vague codes",
        "They count at a 4xx, if no table above decides.",
        ("code", "conclusion", "why"),
        ((f"`{rule.codes}`", _said(rule.conclusion), rule.why) for rule in CODE_PATTERNS),
    )


def _signs() -> str:
    rows = (
        (sign.gateway, f"`{sign.example}`", _statuses(sign.statuses), _said(sign.conclusion), sign.why)
        for sign in SIGNS
    )
    return _section(
        "## Signs of a gateway",
        "They count at a 5xx without a code of the service. A gateway answers 502, 503 or 504 in two cases: "
        "it did not pass the request on, or it lost the service's answer. These signs show which case it is. "
        "The first match counts.",
        ("gateway", "for example", "at", "conclusion", "why"),
        rows,
    )


def _by_status() -> str:
    rows = ((_statuses(rule.statuses), _said(rule.coded), _said(rule.other), rule.why) for rule in BY_STATUS)
    return _section(
        "## Statuses",
        "An error of the service has a field `errorCode`, or a code such as "
        "`INPUT_INVALID.DeviceState.Invalid`. Any other body is from a gateway, or empty.",
        ("status", "error of the service", "any other body", "why"),
        rows,
    )


def _connection_errors() -> str:
    return _section(
        "## Connection errors",
        "No status arrived. The names are those of httpx.",
        ("error", "conclusion", "why"),
        ((f"`{rule.error.__name__}`", _said(rule.conclusion), rule.why) for rule in BY_ERROR),
    )


def _words(rule: WordRule) -> tuple[str, ...]:
    return _listed(rule.examples), _statuses(rule.statuses), _said(rule.conclusion), rule.why


def _section(title: str, lead: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}\n\n{lead}\n\n{table}\n"


def _said(conclusion: Conclusion) -> str:
    if conclusion.is_duplicate:
        return "ambiguous: perhaps a duplicate" if conclusion.is_inferred else "ambiguous: a duplicate"
    if conclusion.blame is not None:
        return _REFUSALS[conclusion.blame] + (" (documented)" if conclusion.is_known else "")
    if conclusion.rejected is not None:
        renewed = ", and the token is renewed"
        return (
            _TOKENS[conclusion.rejected]
            if conclusion.outcome is Outcome.UNAUTHORIZED
            else f"ambiguous{renewed}"
        )
    if conclusion.is_inferred:
        return f"{conclusion.outcome.value}; Lifetime: ambiguous"
    return Outcome(conclusion.outcome).value


def _statuses(statuses: Container[int]) -> str:
    """Statuses in short: "4xx", "any", or a list with ranges."""
    names: Sequence[tuple[Container[int], str]] = (
        (ANY_STATUS, "any"),
        (CLIENT_ERRORS, "4xx"),
        (SERVER_ERRORS, "5xx"),
        (FAILURES, "408, 5xx"),
        (NO_FAILURES, "any but 408, 5xx"),
    )
    if name := next((name for group, name in names if group == statuses), None):
        return name
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

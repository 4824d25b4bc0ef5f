"""Reads when the carrier wants the next request: `Retry-After`, `nextAccessTime`, and rate-limit headers."""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice

MAX_WAIT_S = 24 * 3600.0
"""Longer waits are cut to this: no carrier asks for a pause of more than a day."""

_EPOCH_FROM = 1e9
"""Numbers from here on are times since 1970, not delays: in seconds; from 1e12 on, in smaller units."""

_RECENT_S = 60.0
"""A moment that passed less than so many seconds ago is plausible: the wait is over."""

_MAX_HEADER = 500
"""Characters that are read of a header: a few dates need less, and some patterns are slow."""

_NAMES = ("ratelimit", "x-ratelimit-", "x-rate-limit-")
_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_PARAMETER = re.compile(r"([a-z]+)\s*=\s*(\d{1,18})", re.IGNORECASE)
_LONG_NAMES = {"q": "limit", "r": "remaining", "t": "reset"}
_POLICY = re.compile(
    r'(?<![=\w])("[^"]{0,99}"|[^\s;,="]{1,99})((?:\s*;\s*[a-z*][\w.*-]{0,99}\s*(?:=\s*(?:"[^"]*"|[^;,"\s]+))?)+)',
    re.IGNORECASE,
)
"""A policy of the IETF draft (draft-ietf-httpapi-ratelimit-headers): its name and its parameters."""

_OTHER_UNIT = re.compile(r';\s*qu\s*=\s*"(?!requests")', re.IGNORECASE)
"""A policy that counts bytes or concurrent requests."""

_WAIT_HEADER = re.compile(
    r"(?:x-)?(?:ms-)?(?:rate-?limit-)?retry-after(?:-in)?(?:-(?:s|secs?|seconds?|(ms|millis|milliseconds)))?"
)
"""Names of headers with a wait. The group is there if its unit is a millisecond."""

_ELEMENT = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*,[^,]*|[^,]+", re.IGNORECASE)
"""An element of a list. An HTTP date such as "Sat, 21 Nov 2026 19:20:00 GMT" has a comma of its own."""

_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})")
_PART = (
    r"\+?([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
    r"(milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-su-z]|t(?!\d))"
)
_DURATION = re.compile(rf"(?:pt?)?\s*{_PART}(?:t?\s*{_PART})*", re.IGNORECASE)
_DURATION_PART = re.compile(_PART, re.IGNORECASE)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK = re.compile(r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]{1,9})?)")
"""A duration as .NET writes it: hours, minutes, seconds."""

_PARTS = rf"{_PART}(?:\s*(?:,|and|,\s*and)?\s*{_PART})*"
_AGAIN = re.compile(
    rf"\b(?:again|retry)\s+(?:after\s+(?:about\s+)?(?P<after>{_PARTS})|"
    rf"(?:in|for)\s+(?:about\s+)?(?P<wait>{_CLOCK.pattern}|{_PARTS}))",
    re.IGNORECASE,
)
"""A time such as 14:30:00 is a duration after "in", but perhaps a time of day after "after"."""

_WAIT = re.compile(
    r"(?:(?:^|[.!?;:]\s)\s*wait|\b(?:please|must|should|have\s+to)\s+wait|\bwait\s+(?=for\b)|"
    r"\bnext\s+(?:request|call|access)(?:\s+is)?\s+(?:allowed|available)\s+in)\s*"
    rf"\b(?:for\s+)?(?:about\s+)?(?P<wait>{_CLOCK.pattern}|{_PARTS})",
    re.IGNORECASE,
)
"""An instruction to wait: a sentence may also mention the waits of others, or the size of a limit."""

_IN_BARE_SECONDS = re.compile(
    r"(?:again|retry)[\s_-]*after(?:[\s_-]*in)?(?:[\s_-]*seconds?)?[\s\"':=]*([0-9]{1,9}(?:\.[0-9]{1,9})?)"
    r"(?=\s*(?:$|[;!)\]}\"'|]|[.,](?![0-9])))",
    re.IGNORECASE,
)
"""A number without a unit, at the end of a sentence: "retry after 60." """

_DATE_FORMATS = (
    "%Y-%b-%d %H:%M:%S%z",
    "%Y-%b-%d %H:%M:%S",
    "%a %b %d %H:%M:%S UTC %Y",
    "%a %b %d %H:%M:%S %z %Y",
)
_ZONES = {
    "WET": "+0000",
    "WEST": "+0100",
    "BST": "+0100",
    "CET": "+0100",
    "MET": "+0100",
    "CEST": "+0200",
    "MEST": "+0200",
    "EET": "+0200",
    "EEST": "+0300",
    "MSK": "+0300",
    "JST": "+0900",
}
"""Names of time zones besides those of RFC 5322, which Python knows."""

_RFC_ZONES = frozenset({"GMT", "UTC", "UT", "Z", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"})
_ZONE = re.compile(r"(?<=\d) ([A-Z]{1,5})\b(?= \d{4}$|$)", re.IGNORECASE)
_NAME_OF_OFFSET = re.compile(r"(?<=[+-]\d{4}) [A-Z]{1,5}$")


@dataclass(frozen=True, slots=True)
class Quota:
    """The carrier's advertised quota: requests per window, requests left, seconds until the next window."""

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


def read_retry_after(headers: Mapping[str, str], *hints: object) -> float | None:
    """Seconds to wait before the next request, 0 to `MAX_WAIT_S`; None if the answer does not say.

    The headers come first; of several values the longest counts. `hints` are fields of the body, such as
    `nextAccessTime`: the first one that can be read counts.

    A wait is a number of seconds, a duration such as "4s" or "PT4S", a time since 1970, or a date in a common
    form. Moments are compared with the `Date` header of the same answer, so a wrong clock on either side has
    no effect.
    """
    clock = _clock(headers)
    waits = [
        wait
        for name, values in headers.items()
        if (named := _WAIT_HEADER.fullmatch(name))
        for value in _elements(values)
        if (wait := _wait(with_milliseconds(value) if named[1] else value, clock)) is not None
    ]
    if waits:
        return _plausible(max(waits))
    hint = next((wait for hint in hints if (wait := _wait(hint, clock)) is not None), None)
    return None if hint is None else _plausible(hint)


def read_wait_in_words(text: str) -> float | None:
    """Seconds in a sentence such as "Try again in 5 seconds."; None if there is none."""
    if found := _AGAIN.search(text):
        return _plausible(_duration_in_words(found["after"] or found["wait"]))
    if found := _IN_BARE_SECONDS.search(text):
        return _plausible(float(found[1]))
    found = _WAIT.search(text)
    return None if found is None else _plausible(_duration_in_words(found["wait"]))


def read_quota(headers: Mapping[str, str]) -> Quota | None:
    """The quota in `RateLimit-*`, `X-RateLimit-*` or the IETF draft's `RateLimit`; None without these."""
    if not any(name.startswith(_NAMES) for name in headers):
        return None
    named = {
        name.removeprefix(prefix): value.split(";")[0]
        for name, value in headers.items()
        for prefix in _PREFIXES
        if name.startswith(prefix)
    }
    for name, value in _PARAMETER.findall(_tightest_policy(headers)):
        named.setdefault(_LONG_NAMES.get(name.lower(), name.lower()), value)
    left = list(_counts(named.get("remaining", "")))
    remaining = min((count for count in left if count is not None), default=None)
    place = left.index(remaining) if remaining in left else 0
    limit = _count(_element(named.get("limit", ""), place, len(left)))
    reset_at = _element(named.get("reset", named.get("reset-after", "")), place, len(left))
    reset = _wait(reset_at, _clock(headers))
    if limit is None and remaining is None and reset is None:
        return None
    return Quota(limit, remaining, None if reset is None else _plausible(reset))


def is_number(value: object) -> bool:
    """Whether a value is a number, or a text with nothing but a number."""
    return isinstance(value, int | float) or (isinstance(value, str) and _number(value) is not None)


def with_milliseconds(value: object) -> object:
    """A number of milliseconds as a text with its unit; any other value as it is."""
    return f"{value} ms" if is_number(value) else value


def is_quota_used_up(headers: Mapping[str, str]) -> bool:
    """Whether a rate-limit header says that no request is left, whatever its window is called."""
    if (quota := read_quota(headers)) is not None and quota.remaining == 0:
        return True
    return any(
        0 in _counts(value)
        for name, value in headers.items()
        if name.startswith(_PREFIXES) and "remaining" in name
    )


def _plausible(wait: float) -> float:
    return min(max(wait, 0.0), MAX_WAIT_S)


def _elements(value: str) -> Iterator[str]:
    return (
        element
        for found in _ELEMENT.findall(value[:_MAX_HEADER])
        if (element := found.strip().strip("\"'").strip())
    )


def _tightest_policy(headers: Mapping[str, str]) -> str:
    """The parameters of the policy that leaves the fewest requests, and of these the longest time.

    An older version of the draft has no policies in `RateLimit`: then all that the header has comes first.
    """
    state = headers.get("ratelimit", "")[:_MAX_HEADER]
    limits: dict[str, str] = dict(_POLICY.findall(headers.get("ratelimit-policy", "")[:_MAX_HEADER]))
    left: dict[str, str] = dict(_POLICY.findall(state))
    both = {name: left.get(name, "") + limits.get(name, "") for name in (left or limits)}
    of_requests = [parameters for parameters in both.values() if not _OTHER_UNIT.search(parameters)]
    tightest = min(of_requests, key=_tightness, default="")
    return tightest if left else f"{state};{tightest}"


def _tightness(parameters: str) -> tuple[float, int]:
    found = {name.lower(): int(value) for name, value in _PARAMETER.findall(parameters)}
    return found.get("r", math.inf), -found.get("t", 0)


def _count(value: str) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _counts(value: str) -> Iterator[int | None]:
    """The numbers of a list. Of a number such as "10,000", only the first digits are read."""
    elements = _elements(value)
    return map(_count, islice(elements, 1) if _THOUSANDS.fullmatch(value.strip()) else elements)


def _element(value: str, place: int, length: int) -> str:
    """The element at a place of a list of this length; the first element of any other list."""
    elements = list(_elements(value))
    return elements[place] if len(elements) == length > place else next(iter(elements), "")


def _clock(headers: Mapping[str, str]) -> Callable[[float], float]:
    """Return a function that gives the seconds until a moment.

    A gateway may add its own `Date` to that of the service. The one that gives the shortest wait counts: the
    moment is from the same clock. If no `Date` gives a plausible wait, the local clock counts.
    """

    def seconds_until(moment: float) -> float:
        dates = (_moment(value) for value in _elements(headers.get("date", "")))
        waits = [moment - date for date in dates if date is not None]
        plausible = [wait for wait in waits if -_RECENT_S < wait < MAX_WAIT_S]
        own = moment - time.time()
        if plausible:
            return min(plausible, key=lambda wait: (wait < 0, wait))
        return own if not waits or 0 <= own < MAX_WAIT_S else max(waits)

    return seconds_until


def _wait(value: object, clock: Callable[[float], float]) -> float | None:
    """Seconds in a number, a duration or a moment; None if the value is none of these."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = value.strip()[:_MAX_HEADER] if isinstance(value, str) else _digits(value)
    if (number := _number(text)) is not None:
        return clock(_epoch_seconds(number)) if number >= _EPOCH_FROM else number
    if _DURATION.fullmatch(text):
        return _duration(text)
    if (duration := _clock_duration(text)) is not None:
        return duration
    moment = _moment(text)
    return None if moment is None else clock(moment)


def _digits(value: float) -> str:
    if abs(value) >= 10**18:
        return ""
    return f"{value:d}" if isinstance(value, int) else f"{value:.9f}"


def _epoch_seconds(number: float) -> float:
    for factor in (1e18, 1e15, 1e12):
        if number >= factor:
            return number / (factor / 1e9)
    return number


def _duration(text: str) -> float:
    seconds = 0.0
    for number, unit in _DURATION_PART.findall(text):
        is_thousandth = unit.lower().startswith(("ms", "milli"))
        seconds += float(number) * (0.001 if is_thousandth else _SECONDS[unit[0].lower()])
    return seconds


def _clock_duration(text: str) -> float | None:
    found = _CLOCK.fullmatch(text)
    return None if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _duration_in_words(text: str) -> float:
    wait = _clock_duration(text)
    return _duration(text) if wait is None else wait


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text := text.strip()) else None


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a date: ISO 8601, as in HTTP, the gateway's or Java's. UTC if it has no zone.

    None if the date has a zone with an unknown name.
    """
    text = _NAME_OF_OFFSET.sub("", text.strip())
    if zone := _ZONE.search(text):
        name = zone[1].upper()
        if name not in _ZONES and name not in _RFC_ZONES:
            return None
        text = f"{text[: zone.start()]} {_ZONES.get(name, zone[1])}{text[zone.end() :]}"
    plain = text.removesuffix("UTC").removesuffix("GMT").strip()
    readers: list[Callable[[], datetime]] = [
        partial(datetime.fromisoformat, plain),
        *(partial(datetime.strptime, plain, date_format) for date_format in _DATE_FORMATS),
        partial(parsedate_to_datetime, text),
    ]
    for read in readers:
        try:
            date = read()
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None

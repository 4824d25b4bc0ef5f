"""Reads rate-limit headers: `Retry-After`, `RateLimit-*` and the gateway's `nextAccessTime`."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_S = 24 * 3600.0
"""Longer waits are cut to this."""

_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e12
"""From here on, a number is a time since 1970 in seconds or milliseconds, not a delay."""

_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_PARAMETER = re.compile(r"([a-z]+)\s*=\s*(\d{1,18})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?")
_LONG_NAMES = {"q": "limit", "r": "remaining", "t": "reset"}


@dataclass(frozen=True, slots=True)
class Quota:
    """The carrier's advertised quota: requests per window, requests left, seconds until the next window."""

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


def read_retry_after(headers: Mapping[str, str], next_access_time: object = None) -> float | None:
    """Seconds to wait before the next request, 0 to `MAX_WAIT_S`; None if the answer does not say.

    `Retry-After` is delta seconds or an HTTP date (RFC 9110, 10.2.3). `next_access_time` is the field
    `nextAccessTime` of the gateway's error body. Dates are compared with the `Date` header of the same
    answer, so a wrong clock on either side has no effect.
    """
    now = _now(headers)
    for wait in (
        _wait_from_retry_after(headers.get("retry-after"), now),
        _wait_from_next_access_time(next_access_time, now),
    ):
        if wait is not None:
            return min(max(wait, 0.0), MAX_WAIT_S)
    return None


def read_quota(headers: Mapping[str, str]) -> Quota | None:
    """The quota in `RateLimit-*`, `X-RateLimit-*` or the IETF draft's `RateLimit`; None without these."""
    named = {
        name.removeprefix(prefix): value.split(",")[0].split(";")[0].strip()
        for name, value in headers.items()
        for prefix in _PREFIXES
        if name.startswith(prefix)
    }
    for header in ("ratelimit", "ratelimit-policy"):
        for name, value in _PARAMETER.findall(headers.get(header, "")):
            named.setdefault(_LONG_NAMES.get(name.lower(), name.lower()), value)
    limit, remaining, reset = (_number(named.get(key)) for key in ("limit", "remaining", "reset"))
    if limit is None and remaining is None and reset is None:
        return None
    return Quota(
        limit=None if limit is None else int(limit),
        remaining=None if remaining is None else int(remaining),
        reset_s=None if reset is None else min(max(_seconds_until(reset, _now(headers)), 0.0), MAX_WAIT_S),
    )


def _now(headers: Mapping[str, str]) -> float:
    return _date(headers.get("date")) or time.time()


def _wait_from_retry_after(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    if (seconds := _number(value.removeprefix("-"))) is not None:
        return -seconds if value.startswith("-") else seconds
    date = _date(value)
    return None if date is None else date - now


def _wait_from_next_access_time(value: object, now: float) -> float | None:
    """`nextAccessTime` is like "2026-Nov-21 19:20:00+0000 UTC", or milliseconds since 1970."""
    if isinstance(value, int) and 0 <= value < 10**18:
        value = f"{value:d}"
    if not isinstance(value, str):
        return None
    if (number := _number(value)) is not None:
        return _seconds_until(number, now)
    for date_format in ("%Y-%b-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%z"):
        try:
            date = datetime.strptime(value.removesuffix("UTC").strip(), date_format)  # noqa: DTZ007 - has %z
        except ValueError:
            continue
        return date.timestamp() - now
    return None


def _seconds_until(number: float, now: float) -> float:
    if number >= _EPOCH_MS_FROM:
        return number / 1000 - now
    return number - now if number >= _EPOCH_FROM else number


def _number(text: str | None) -> float | None:
    found = _NUMBER.fullmatch(text.strip()) if text is not None else None
    return float(found.group()) if found else None


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()

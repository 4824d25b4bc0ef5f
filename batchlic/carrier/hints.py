"""What an answer tells of the carrier's limits: when to come again, and how much is left."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 24 * 3600.0
"""Seconds; a carrier that asks for more is asked again after this."""

_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e12
"""A number this large is no delay but a moment, in seconds or milliseconds since 1970."""

_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_PARAMETER = re.compile(r"([a-z]+)\s*=\s*(\d{1,18})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?")
_LONG_NAMES = {"q": "limit", "r": "remaining", "t": "reset"}


@dataclass(frozen=True, slots=True)
class Quota:
    """What the carrier says is left: requests in the present window, and seconds until the next one."""

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


def retry_after_of(headers: Mapping[str, str], next_access_time: object = None) -> float | None:
    """Seconds until the carrier wants to be asked again, 0 to `LONGEST_WAIT`; None if it does not say.

    `Retry-After` is delta seconds or an HTTP date (RFC 9110, 10.2.3), `nextAccessTime` the gateway's own.
    Dates are compared with the answer's own `Date`, so that a wrong clock on either side does no harm.
    """
    now = _now(headers)
    for wait in (
        _wait_from_header(headers.get("retry-after"), now),
        _wait_from_gateway(next_access_time, now),
    ):
        if wait is not None:
            return min(max(wait, 0.0), LONGEST_WAIT)
    return None


def quota_of(headers: Mapping[str, str]) -> Quota | None:
    """Quota in `RateLimit-*`, `X-RateLimit-*` or the draft's `RateLimit` header; None if there is none."""
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
        reset_s=None if reset is None else min(max(_seconds_until(reset, _now(headers)), 0.0), LONGEST_WAIT),
    )


def _now(headers: Mapping[str, str]) -> float:
    return _date(headers.get("date")) or time.time()


def _wait_from_header(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    if (seconds := _number(value.removeprefix("-"))) is not None:
        return -seconds if value.startswith("-") else seconds
    moment = _date(value)
    return None if moment is None else moment - now


def _wait_from_gateway(value: object, now: float) -> float | None:
    """`nextAccessTime` comes as "2026-Nov-21 19:20:00+0000 UTC", or as milliseconds since 1970."""
    if isinstance(value, int) and 0 <= value < 10**18:
        value = f"{value:d}"
    if not isinstance(value, str):
        return None
    if (number := _number(value)) is not None:
        return _seconds_until(number, now)
    for form in ("%Y-%b-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%z"):
        try:
            moment = datetime.strptime(value.removesuffix("UTC").strip(), form)  # noqa: DTZ007 - has %z
        except ValueError:
            continue
        return moment.timestamp() - now
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
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

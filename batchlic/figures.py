"""Numbers and times as batchlic writes them: `1 device`, `24,957 devices`, ISO 8601 in UTC.

Times have microseconds in files and JSON, and seconds on a terminal.
"""

import re
from datetime import UTC, datetime

TIME_IN_FILES = "%Y-%m-%dT%H:%M:%S%.6fZ"
"""The form of times in files, for expressions of polars."""

_FRACTION = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+(?=Z|[+-]\d\d)")


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural: `1 device`, `2,000 batches`."""
    return f"{number:,} {noun_for(number, noun)}"


def noun_for(number: int, noun: str) -> str:
    """The noun in the singular for 1, otherwise in the plural."""
    if number == 1:
        return noun
    if noun.endswith(("ch", "s", "x")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def time_in_files(microseconds: int) -> str:
    """A time, in microseconds since 1970, as in files and JSON: `2026-11-21T21:35:58.012345Z`."""
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06}Z"


def time_on_terminal(time: str | int) -> str:
    """A time, as in files or in microseconds since 1970, as on a terminal: `2026-11-21T21:35:58Z`."""
    text = time if isinstance(time, str) else time_in_files(time)
    return _FRACTION.sub(r"\1", text)


def duration(seconds: float) -> str:
    """A duration as minutes and seconds, or with hours: `0:12`, `2:05:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

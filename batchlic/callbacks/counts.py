"""Counts of messages that a listener keeps."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Messages since the listener began."""

    received: int = 0
    stored: int = 0
    unjudged: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """By status of the answer."""
    waiting: int = 0
    last_stored_at: float | None = None
    """Seconds since 1970."""

"""What was decided of devices in doubt: part of a run's history, as its attempts are."""

from enum import StrEnum
from typing import NamedTuple

BY_CALLBACK = "a callback"
"""Who settled what the carrier's callbacks prove; no user of an operating system has a name with a space."""


class Verdict(StrEnum):
    """What can be said of a request whose answer was lost."""

    ACCEPTED = "accepted"
    """It was executed."""
    FAILED = "failed"
    """It was not, and nothing more is to be sent."""
    RESEND = "resend"
    """Send it again, executed or not."""


class Settlement(NamedTuple):
    """One decision about the devices of one part of a batch; `settled_at` in microseconds since 1970, UTC."""

    seq: int
    """Its place among the attempts: it speaks of those before it."""
    batch_id: int
    part: str
    device_count: int
    verdict: str
    settled_by: str
    reason: str
    settled_at: int

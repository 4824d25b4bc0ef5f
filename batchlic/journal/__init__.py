"""The durable state of a run: what was intended, sent and answered (promises B, C and D).

Nothing is sent before its intent is durable here, and no answer counts before it is. Both are awaited one by
one and committed in groups. The public verbs are those of the domain: `intend`, `answer`, `settle`, `end`.
"""

from batchlic.journal.journal import (
    SANDBOX,
    Attempt,
    Ending,
    Event,
    Input,
    Intent,
    Journal,
    LicenseCount,
    RunIdentity,
)
from batchlic.journal.settlement import Settlement, Verdict
from batchlic.journal.standing import Standing

__all__ = [
    "SANDBOX",
    "Attempt",
    "Ending",
    "Event",
    "Input",
    "Intent",
    "Journal",
    "LicenseCount",
    "RunIdentity",
    "Settlement",
    "Standing",
    "Verdict",
]

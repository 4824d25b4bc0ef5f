"""The durable state of a run: what was intended, sent and answered (promises B, C and D).

Nothing is sent before its intent is durable here, and no answer counts before it is. Both are awaited one by
one and committed in groups. The public verbs are those of the domain: `intend`, `answer`, `settle`, `end`.
"""

from batchlic.journal.journal import (
    SANDBOX,
    Attempt,
    Event,
    Intent,
    InventoryFile,
    Journal,
    LicenseCount,
    RunIdentity,
    SessionEnd,
)
from batchlic.journal.settlement import Settlement, Verdict
from batchlic.journal.status import Standing

__all__ = [
    "SANDBOX",
    "Attempt",
    "Event",
    "Intent",
    "InventoryFile",
    "Journal",
    "LicenseCount",
    "RunIdentity",
    "SessionEnd",
    "Settlement",
    "Standing",
    "Verdict",
]

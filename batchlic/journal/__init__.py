"""One run's durable log of intents and answers (promises B, C and D).

No request is sent before its intent is durable in the journal, and no answer counts before the answer is.
Tasks write intents and answers one by one; the journal commits them in groups.
"""

from batchlic.journal.journal import Journal
from batchlic.journal.outline import Outline
from batchlic.journal.places import FilePlace, JournalPlace
from batchlic.journal.queries import JournalQueries
from batchlic.journal.records import (
    SANDBOX,
    SETTLED_BY_CALLBACK,
    Attempt,
    Event,
    Intent,
    InventoryFile,
    KeptColumns,
    LicenseCount,
    LostAnswers,
    Part,
    PlanApproval,
    RunIdentity,
    Sending,
    SessionEnd,
    Settlement,
)
from batchlic.journal.status import is_lost, status_of
from batchlic.journal.store_place import StorePlace
from batchlic.journal.tail import Answered, Settled

__all__ = [
    "SANDBOX",
    "SETTLED_BY_CALLBACK",
    "Answered",
    "Attempt",
    "Event",
    "FilePlace",
    "Intent",
    "InventoryFile",
    "Journal",
    "JournalPlace",
    "JournalQueries",
    "KeptColumns",
    "LicenseCount",
    "LostAnswers",
    "Outline",
    "Part",
    "PlanApproval",
    "RunIdentity",
    "Sending",
    "SessionEnd",
    "Settled",
    "Settlement",
    "StorePlace",
    "is_lost",
    "status_of",
]

"""What is licensed, across runs."""

from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.announced import Announcement
from batchlic.ledger.ledger import Ledger, RunEntry, RunRecords
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS, SCOPE
from batchlic.ledger.snapshot import Snapshot

__all__ = [
    "IDENTIFIERS",
    "RECORD_COLUMNS",
    "SCOPE",
    "Announcement",
    "Ledger",
    "LicenseState",
    "RunEntry",
    "RunRecords",
    "Snapshot",
]

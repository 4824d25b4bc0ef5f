"""What is licensed, across runs."""

from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.ledger import Ledger, RunEntry, RunRecords
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS, SCOPE
from batchlic.ledger.snapshot import Snapshot

__all__ = [
    "IDENTIFIERS",
    "RECORD_COLUMNS",
    "SCOPE",
    "Ledger",
    "LicenseState",
    "RunEntry",
    "RunRecords",
    "Snapshot",
]

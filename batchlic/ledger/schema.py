"""The columns of ledger records: what a run recorded of the devices of one account and SKU."""

import polars as pl

from batchlic.chunker.exclusion import LicenseState
from batchlic.reader.streaming import UTC, Schema

STATES = pl.Enum([state.name.lower() for state in LicenseState])

IDENTIFIERS = ("imei_number", "iccid_number")

SCOPE = ("account_name", "sku_number")

RECORD_COLUMNS: Schema = {
    **dict.fromkeys(IDENTIFIERS, pl.Int64()),
    "state": STATES,
    "action": pl.String(),
    "status": pl.String(),
    "x_request_id": pl.String(),
    "request_id": pl.String(),
    "at": UTC,
}
"""One row a device. Identifiers are the reader's numbers, null where not known. `state` is what is known of
the license. Action, status and request ids are those of the request that decided it; the ids are null where
a list was imported. `at` is when the last request for the device left.

`state` is null in a retraction: the run recorded the device as unassigned before, and no longer does. The
records of other runs count again, which is new to runs that were planned before.
"""

RECORDS_PER_FRAME = 100_000
"""Device states that make one frame of records, which is one row of the database for each SKU."""

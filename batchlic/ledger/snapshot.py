"""The ledger as a run sees it: which devices already have their license."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.ledger import Ledger
from batchlic.ledger.schema import IDENTIFIERS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a ledger knows of the devices at one carrier, for planning (protocol: KnownLicenses).

    `last_number` is the number of the newest records when the snapshot was taken. `to_sku` is the SKU that
    all devices of a migration get instead of the one they are planned under; None in other runs.
    """

    ledger: Ledger
    carrier: str
    last_number: int
    to_sku: str | None = None

    def records(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All records of some accounts and SKUs, those of the earliest run first.

        Columns: `rank` (UInt32, the index of account and SKU in `targets`), the one that `identifier` names
        (Int64, not null), and `state` (UInt8, a LicenseState).
        """
        for frame in self._records(targets, (identifier,)):
            yield frame.drop_nulls(identifier)

    def devices(self, targets: Sequence[tuple[str, str]]) -> Iterator[pl.DataFrame]:
        """The same records as `records`, with both identifiers, each null where not known (columns: `rank`,
        IDENTIFIERS, `state`).
        """
        return self._records(targets, IDENTIFIERS)

    def _records(
        self, targets: Sequence[tuple[str, str]], identifiers: Sequence[str]
    ) -> Iterator[pl.DataFrame]:
        ranks = {target: rank for rank, target in enumerate(targets)}
        state = pl.col("state").to_physical().cast(pl.UInt8) + LicenseState.UNASSIGNED
        for found in self.ledger.run_records(self.carrier, targets, (*identifiers, "state")):
            rank = pl.lit(ranks[found.account_name, found.sku_number], pl.UInt32)
            known = found.records.drop_nulls("state")
            yield known.select(rank.alias("rank"), *identifiers, state.alias("state"))

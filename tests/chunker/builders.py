"""Known licenses, as planning reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from batchlic.chunker.exclusion import LicenseState
from batchlic.reader.validation.rules import iccid_number, imei_number
from tests.reader.builders import ACCOUNT, SKU


@dataclass(frozen=True)
class Record:
    """One record of a device under an account and SKU."""

    state: LicenseState
    imei: str | None = None
    iccid: str | None = None
    account_name: str = ACCOUNT
    sku_number: str = SKU


@dataclass(frozen=True)
class Records:
    """Known licenses: the records in the order in which runs made them."""

    known: Sequence[Record]
    to_sku: str | None = None

    def records(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """One frame for each record that has the identifier."""
        for frame in self.devices(targets):
            yield frame.select("rank", identifier, "state").drop_nulls()

    def devices(self, targets: Sequence[tuple[str, str]]) -> Iterator[pl.DataFrame]:
        """One frame for each record."""
        for record in self.known:
            target = (record.account_name, record.sku_number)
            if target in targets:
                frame = pl.DataFrame(
                    {"imei": [record.imei], "iccid": [record.iccid], "state": [int(record.state)]},
                    schema={"imei": pl.String, "iccid": pl.String, "state": pl.UInt8},
                )
                yield frame.select(
                    pl.lit(targets.index(target), pl.UInt32).alias("rank"),
                    imei_number(pl.col("imei")).alias("imei_number"),
                    iccid_number(pl.col("iccid")).alias("iccid_number"),
                    "state",
                )

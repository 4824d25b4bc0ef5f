"""Records packed as one row of the database."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS, SCOPE


class Place(NamedTuple):
    """Where records stand among all those of their run: the number of the frame, and the license."""

    part: int
    account_name: str
    sku_number: str


class PackedRecords(NamedTuple):
    """Records of one run, frame, account and SKU; `content` is parquet."""

    part: int
    account_name: str
    sku_number: str
    devices: int
    unpaired: int
    content: bytes

    @classmethod
    def pack(cls, rows: pl.DataFrame, place: Place) -> PackedRecords:
        """Pack records (columns: RECORD_COLUMNS)."""
        content = io.BytesIO()
        rows.select(*RECORD_COLUMNS).write_parquet(content, compression="zstd", compression_level=1)
        unpaired = rows.height - rows.select(IDENTIFIERS).drop_nulls().height
        return cls(*place, rows.height, unpaired, content.getvalue())

    @property
    def place(self) -> Place:
        """Where these records stand among all those of their run."""
        return Place(self.part, self.account_name, self.sku_number)

    def unpack(self) -> pl.DataFrame:
        """The records (columns: RECORD_COLUMNS)."""
        return read_content(self.content, tuple(RECORD_COLUMNS))


def pack_frames(frames: Iterable[pl.DataFrame]) -> Iterator[PackedRecords]:
    """Pack a run's records (columns: SCOPE and RECORD_COLUMNS), those of each account and SKU apart."""
    for part, frame in enumerate(frames):
        for (account, sku), rows in frame.partition_by(SCOPE, as_dict=True).items():
            yield PackedRecords.pack(rows, Place(part, account, sku))


def read_content(content: bytes, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of packed records."""
    return pl.read_parquet(io.BytesIO(content), columns=list(columns))


def read_identifiers(content: bytes) -> pl.DataFrame:
    """The identifiers of packed records (columns: IDENTIFIERS)."""
    return read_content(content, IDENTIFIERS)

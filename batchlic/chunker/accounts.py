"""Reads the batches of a plan by account, a few at a time, so that all accounts can take turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.carrier.catalog import MAX_DEVICES_PER_REQUEST
from batchlic.chunker.batch import ROWS_PER_READ, Batch, batches_of, frames_of_batches
from batchlic.reader import IdKind

if TYPE_CHECKING:
    import polars as pl

ROWS_AT_ONCE = 10 * ROWS_PER_READ
"""Rows of all accounts together that are in memory at once (promise H)."""
LEAST_ROWS = 2 * MAX_DEVICES_PER_REQUEST
"""Rows of an account that are read at least: more than a batch has."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a plan that follow one another, and are those of whole batches of one account."""

    account: str
    batches: range
    first_row: int
    rows: int

    def joined(self, following: Stretch) -> Stretch | None:
        """This stretch with the one that follows; None if that has another account."""
        if following.account != self.account:
            return None
        batches = range(self.batches.start, following.batches.stop)
        return replace(self, batches=batches, rows=self.rows + following.rows)


@dataclass(frozen=True, slots=True)
class AccountBatches:
    """The batches of one account in a plan, in order. They are read again for each iteration."""

    plan: Path
    id_kind: IdKind
    stretches: tuple[Stretch, ...]
    rows_per_read: int

    @property
    def account(self) -> str:
        """The name of the account."""
        return self.stretches[0].account

    @property
    def batches_per_read(self) -> int:
        """So many batches of the account may be in memory at once."""
        return self.rows_per_read // MAX_DEVICES_PER_REQUEST

    def has(self, batch_id: int) -> bool:
        """Whether a batch of the plan belongs to the account."""
        return any(batch_id in stretch.batches for stretch in self.stretches)

    def __iter__(self) -> Iterator[Batch]:
        """Read the batches."""
        from batchlic.reader.scans import scan_parquet  # noqa: PLC0415 - slow: only when a plan is read

        rows = scan_parquet(self.plan)
        for stretch in self.stretches:
            stop = stretch.first_row + stretch.rows
            for frame in frames_of_batches(rows, stretch.first_row, stop, rows_per_read=self.rows_per_read):
                yield from batches_of(frame, self.id_kind)


def read_accounts(plan: Path, id_kind: IdKind, batches: range, *, most_at_once: int) -> list[AccountBatches]:
    """The accounts of some consecutive batches of a plan, in the order of their first batches.

    `most_at_once`: the batches of so many accounts at most are read side by side. Together, about
    ROWS_AT_ONCE rows are in memory.
    """
    by_account: dict[str, list[Stretch]] = {}
    for stretch in _stretches(plan, batches):
        by_account.setdefault(stretch.account, []).append(stretch)
    side_by_side = max(1, min(most_at_once, len(by_account)))
    rows_per_read = max(LEAST_ROWS, min(ROWS_PER_READ, ROWS_AT_ONCE // side_by_side))
    return [
        AccountBatches(plan, id_kind, tuple(stretches), rows_per_read) for stretches in by_account.values()
    ]


def _stretches(plan: Path, batches: range) -> Iterator[Stretch]:
    last: Stretch | None = None
    for found in _stretches_of_frames(plan, batches):
        joined = last and last.joined(found)
        if last is not None and joined is None:
            yield last
        last = joined or found
    if last is not None:
        yield last


def _stretches_of_frames(plan: Path, batches: range) -> Iterator[Stretch]:
    """The stretches of a plan, cut where a frame ends that is read."""
    import polars as pl  # noqa: PLC0415 - as above

    from batchlic.reader.scans import scan_parquet  # noqa: PLC0415 - as above

    columns = scan_parquet(plan).select("batch_id", "account_name").with_row_index("row")
    wanted = columns.filter(pl.col("batch_id").is_between(batches.start, batches.stop - 1))
    for frame in wanted.collect_batches(chunk_size=ROWS_PER_READ, maintain_order=True):
        for account, first, last, row, rows in _runs(frame).iter_rows():
            yield Stretch(account, range(first, last + 1), row, rows)


def _runs(frame: pl.DataFrame) -> pl.DataFrame:
    """Each run of rows of one account: `account_name`, `first` and `last` batch, first `row`, `len`."""
    import polars as pl  # noqa: PLC0415 - as above

    run = pl.col("account_name").rle_id().alias("run")
    batch_id, row = pl.col("batch_id"), pl.col("row")
    return (
        frame.group_by(run, maintain_order=True)
        .agg(
            pl.col("account_name").first(),
            batch_id.first().alias("first"),
            batch_id.last().alias("last"),
            row.first(),
            pl.len(),
        )
        .drop("run")
    )

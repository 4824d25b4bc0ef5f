"""All inventories together: their device rows as integers, and their rejects, in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from batchlic.aliases import shown
from batchlic.errors import InventoryError, UsageError
from batchlic.reader.columns.matching import did_you_mean, listed
from batchlic.reader.devices import DEVICES, REJECTED, DeviceRows
from batchlic.reader.formats import typed
from batchlic.reader.formats.databases.reading import query_result
from batchlic.reader.formats.opening import inventories
from batchlic.reader.inputs.addresses import Address, Download, Downloaded, download
from batchlic.reader.inputs.databases import Database, refuse_without_query
from batchlic.reader.inputs.frames import Frame
from batchlic.reader.inputs.sources import expanded
from batchlic.reader.inventory import WHOLE, Inventory, no_rows, no_rows_error
from batchlic.reader.kept_cells import KeptCells
from batchlic.reader.options import ReadOptions, Source
from batchlic.reader.reading import validated_blocks
from batchlic.reader.roles import TARGETS, kept_cell
from batchlic.reader.spool import Spool
from batchlic.reader.streaming import Schema
from batchlic.reader.targets import TargetTable
from batchlic.reader.validation import duplicates, rules
from batchlic.reader.validation.account_lines import AccountLines
from batchlic.reader.validation.validator import (
    CELL_COLUMNS,
    CELLS,
    REJECT_COLUMNS,
    ROW,
    ValidatedBlock,
)
from batchlic.reader.validation.whole_columns import Facts

TEXTS_BYTES = 64 << 20
"""Bytes of each kind of text, apart from the device rows, that stay in memory."""
MAX_ROWS = 2**32 - 1
"""Ordinals are UInt32."""
VERDICT_ROWS = 200_000
"""Duplicates and conflicts in one frame while they get their messages."""

PLAN_ORDER = pl.coalesce(pl.col("imei_number") + -(2**63), "iccid_number")
"""Sorts by IMEI; rows without an IMEI come last, sorted by ICCID. Equal identifiers give equal values."""

_ORDINAL: Schema = {"ordinal": pl.UInt32()}
_ORIGINAL_CELLS: Schema = _ORDINAL | CELL_COLUMNS
_WHOLE: Schema = {WHOLE: pl.String()}
_REJECTS: Schema = _ORDINAL | {"source": pl.String()} | REJECT_COLUMNS


def read_fleet(names: Sequence[str], options: ReadOptions, scratch: Path) -> "Fleet":
    """Read the inventories, whose names may be globs and folders, and reject their duplicates and conflicts.

    Data too large for memory goes to the folder `scratch`. Raises InventoryError if an inventory can't be
    read, and UsageError if no inventory is given, if one is given twice, if a database has no query, or if
    one has no column for the account or the SKU while the options have no default.
    """
    fleet = Fleet(options, scratch)
    inputs = expanded(names)
    refuse_without_query(inputs.databases, options.query)
    fleet.notes.extend(inputs.notes)
    for name in inputs.names:
        fleet.read(name)
    fleet.refuse_unknown_columns()
    fleet.reject_duplicates()
    return fleet


class Fleet:
    """The rows of all inventories, in input order."""

    def __init__(self, options: ReadOptions, scratch: Path) -> None:
        self._options = options
        self.sources: list[Source] = []
        self.downloaded: list[Downloaded] = []
        self.notes = (
            []
            if options.check_digit
            else ["check digits were not checked, because the job turns this rule off"]
        )
        self.rows_read = 0
        self.cut_off: list[str] = []
        """Texts that seem to be cut off: they end without a newline, in a row that is rejected or short."""
        self.rejected: Counter[str] = Counter()
        self.targets = TargetTable(options)
        self.devices = DeviceRows(scratch)
        self.kept = KeptCells(scratch, list(options.keep))
        self._without_kept: dict[str, list[str]] = {name: [] for name in options.keep}
        self._available: dict[str, None] = {}
        self._original_cells = Spool(scratch / "cells", _ORIGINAL_CELLS, TEXTS_BYTES)
        self._invalid = Spool(scratch / "invalid", _REJECTS, TEXTS_BYTES)
        self._whole = Spool(scratch / "whole", _WHOLE, TEXTS_BYTES)
        self._duplicates = Spool(scratch / "duplicates", _REJECTS, TEXTS_BYTES)

    def read(self, name: str | Address | Database | Frame) -> None:
        """Read one more input to its end. Raises InventoryError and UsageError."""
        if isinstance(name, Database):
            with query_result(name, self._options) as result:
                self._read(result.inventory(self._options))
                self.downloaded.append(result.finish())
            return
        if isinstance(name, Frame):
            self._read(typed.from_frame(name, self._options))
            return
        if isinstance(name, str):
            self._read_all(name)
            return
        with download(name, self._options.download_timeout) as file:
            self.notes.extend(file.notes)
            self._read_all(file)
            self.downloaded.append(file.finish())

    def _read_all(self, name: str | Download) -> None:
        with ExitStack() as files:
            for inventory in inventories(name, self._options, files):
                self._read(inventory)

    def _read(self, inventory: Inventory) -> None:
        name, start = shown(inventory.name), self.rows_read
        facts, is_last_rejected = Facts(self._options), False
        account_lines = AccountLines(inventory, self._options)
        for block in validated_blocks(inventory, self._options):
            if self.rows_read + block.height > MAX_ROWS:
                raise InventoryError(f"{name}: more than {MAX_ROWS:,} rows in all: use several runs")
            account_lines.refuse(block, rows_before=self.rows_read - start)
            self._add(block, name, rows_before=self.rows_read - start)
            facts.add(block)
            if block.height:
                is_last_rejected = block.rejects[ROW].max() == block.height - 1
        facts.refuse_cut_columns(inventory)
        self._refuse_missing_target(inventory)
        facts.refuse_cut_account(inventory)
        facts.refuse_other_places(inventory)
        notes = [*inventory.notes, *inventory.ending.notes, *facts.notes(name)]
        if self.rows_read == start:
            if not self._options.allow_empty:
                raise no_rows_error(inventory)
            notes.append(f"{name}: {no_rows(inventory)}")
        if (is_last_rejected or inventory.ending.is_short) and not inventory.ending.has_newline:
            self.cut_off.append(name)
        self.sources.append(Source(name, self.rows_read - start))
        self.notes.extend(notes)
        self._note_columns(inventory)

    def _note_columns(self, inventory: Inventory) -> None:
        """Note which columns to keep the inventory lacks, and which columns it has."""
        for name, lacking in self._without_kept.items():
            if name not in inventory.kept and kept_cell(name) not in inventory.constants:
                lacking.append(inventory.name)
        self._available.update(dict.fromkeys(inventory.available))

    def refuse_unknown_columns(self) -> None:
        """Raise UsageError if no inventory with rows has a column to keep; note those that lack one."""
        with_rows = {source.name for source in self.sources if source.rows}
        for name, lacking in self._without_kept.items():
            header = self._options.keep[name]
            if with_rows and with_rows <= {*lacking}:
                columns = list(self._available)
                raise UsageError(
                    f"--keep {header}: no inventory has this column"
                    f"{did_you_mean(columns, header)} The columns are {listed(columns, range(len(columns)))}"
                )
            self.notes += [
                f"{source}: there is no column {header!r} to keep: its rows have null as {name}"
                for source in lacking
                if source in with_rows
            ]

    def _refuse_missing_target(self, inventory: Inventory) -> None:
        """Raise UsageError if no row can have an account or a SKU: neither a column nor a default exists."""
        missing = [
            role.value
            for role in TARGETS
            if role not in inventory.roles and self._options.default(role) is None
        ]
        if missing and inventory.roles:
            absent = " and no ".join(missing).replace("sku", "SKU")
            options = " and ".join(f"--{role}" for role in missing)
            raise UsageError(
                f"{inventory.name}: its rows have no {absent}: there is no such column. Give {options}, or "
                f"set {' and '.join(missing)} in the job's [license]; or name the column, such as "
                f"--column {missing[0]}=HEADER"
            )

    def _add(self, block: ValidatedBlock, name: str, *, rows_before: int) -> None:
        ordinal = (pl.col(ROW) + self.rows_read).cast(pl.UInt32).alias("ordinal")
        place = [pl.lit(name).alias("source"), (pl.col(ROW) + rows_before + 1).cast(pl.UInt32).alias("row")]
        codes = self.targets.encode(block.valid)
        self.devices.append(block.valid.select(ordinal, *duplicates.IDENTIFIERS, codes))
        self._original_cells.append(block.original_cells.select(ordinal, *CELLS))
        self.kept.append(block.kept)
        self._invalid.append(block.rejects.select(ordinal, *place, *CELLS, "reason", "message"))
        self._whole.append(block.whole.select(WHOLE))
        self.rejected.update(block.rejects["reason"].to_list())
        self.rows_read += block.height

    def reject_duplicates(self) -> None:
        """Reject duplicates and conflicts. Call this method once, after the last `read`."""
        rows = self._rows_sharing_identifiers()
        if rows.is_empty():
            return
        verdicts = duplicates.find(rows)
        self.mark(verdicts.join(rows, on="ordinal"), REJECTED)
        for verdict_slice in verdicts.iter_slices(VERDICT_ROWS):
            rejects = duplicates.with_messages(verdict_slice, rows, self._places("other"))
            rejects = self._with_cells(rejects.select(*DEVICES, "reason", "message"))
            self._duplicates.append(rejects.with_columns(self._places("ordinal")).select(*_REJECTS))
            self.rejected.update(rejects["reason"].to_list())

    def _rows_sharing_identifiers(self) -> pl.DataFrame:
        """The rows that share an identifier with another row, in input order, with their `target`."""
        shared = {
            identifier: pl.concat(
                duplicates.repeated_values(self.devices.select(key_range, identifier)[identifier])
                for key_range in self.devices.ranges(pl.col(identifier))
            )
            for identifier in duplicates.IDENTIFIERS
        }
        if not any(map(len, shared.values())):
            return pl.DataFrame()
        is_shared = pl.any_horizontal(
            pl.col(identifier).is_in(values.implode()) for identifier, values in shared.items()
        )
        return self.devices.select(is_shared, *DEVICES).with_columns(target=self.targets.rank())

    def _with_cells(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Device rows with their cells (columns CELLS) as they are in the file."""
        rows = rows.with_columns(
            rules.imei_digits(pl.col("imei_number")).alias("imei"),
            rules.iccid_digits(pl.col("iccid_number")).alias("iccid"),
            *self.targets.cells(),
        )
        for frame in self._original_cells.frames():
            cleaned = frame.join(rows, on="ordinal", how="semi")
            rows = rows.update(cleaned, on="ordinal", include_nulls=True)
        return rows

    def mark(self, rows: pl.DataFrame, marks: pl.Series | int) -> None:
        """Mark rows (columns `ordinal`, `target_code`) that are not sent, and no longer count them."""
        self.devices.mark(rows["ordinal"], marks)
        self.targets.subtract(rows["target_code"])

    def sorted_devices(self, marks: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The rows with one of these marks in the order of the plan: by target, IMEI, ICCID (nulls last).

        Columns DEVICES, `mark` (UInt8), `source`, `row` (UInt32, 1-based) and `rank`, that of the target.
        """
        rank = self.targets.rank()
        is_one_target = len(self.targets.row_counts()) < 2
        order = PLAN_ORDER if is_one_target else rank.cast(pl.Int128) * 2**64 + PLAN_ORDER
        for rows in self.devices.sorted(order, marks):
            yield rows.with_columns(*self._places("ordinal"), rank.alias("rank"))

    def invalid_cells(self) -> Iterator[pl.DataFrame]:
        """The cells (String) of the rejects that are no device rows, as they are in the file.

        Of a row with fewer or more cells than the header, or without an identifier, these are all cells: an
        identifier may be in any.
        """
        for frame in self._invalid.frames():
            yield frame.select(*CELLS)
        for frame in self._whole.frames():
            yield frame.select(pl.col(WHOLE).str.split("\n").explode(empty_as_null=True, keep_nulls=False))

    def rejects(self) -> pl.LazyFrame:
        """The rejected rows in input order (columns of REJECT_COLUMNS, `source`, `ordinal`)."""
        return self._invalid.lazy().merge_sorted(self._duplicates.lazy(), key="ordinal")

    def _places(self, ordinal: str) -> list[pl.Expr]:
        """Source and 1-based row of an ordinal."""
        row_counts = pl.Series([0, *(source.rows for source in self.sources)], dtype=pl.Int64)
        starts = pl.lit(row_counts.cum_sum().head(-1))
        position = starts.search_sorted(pl.col(ordinal).cast(pl.Int64), side="right") - 1
        names = pl.lit(pl.Series([source.name for source in self.sources]))
        row = (pl.col(ordinal) - starts.gather(position) + 1).cast(pl.UInt32)
        return [names.gather(position).alias("source"), row.alias("row")]

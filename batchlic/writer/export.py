"""Exports the rows that a person must check: the original cells, and what is wrong with them.

A corrected export can be planned again: the reader knows the columns `imei`, `iccid`, `account_name` and
`sku_number`, and removes the apostrophe that keeps a spreadsheet from running a cell.
"""

import shutil
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import BinaryIO, cast

import polars as pl

from batchlic.atomic import replacing
from batchlic.chunker import DeviceStatus
from batchlic.errors import UsageError
from batchlic.figures import counted

COLUMNS = ("source", "row", "imei", "iccid", "account_name", "sku_number", "status", "reason", "message")
"""Columns of every export, before those that the job keeps; `status` is a DeviceStatus, or `rejected`."""

NO_SHEETS = (
    "XLSX needs xlsxwriter, which is not installed: pip install 'batchlic[xlsx]', or export the rows as csv"
)
XLSX_ROWS = 2**20 - 1
"""Rows that fit a sheet below its header."""
ROWS_PER_FRAME = 50_000

RUNS_AS_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""The start of cells that spreadsheets may run (OWASP, CSV Injection)."""


class Selection(StrEnum):
    """Which rows to export."""

    REJECTS = "rejects"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    RESENT = "resent"
    """Devices that may hold two licenses, because a request for them was sent again after a lost answer."""
    ALL = "all"


class Format(StrEnum):
    """Format of an export: CSV and XLSX are made safe for spreadsheets, the others keep the cells."""

    CSV = "csv"
    XLSX = "xlsx"
    NDJSON = "ndjson"
    PARQUET = "parquet"


FORMAT_BY_ENDING = {f".{form.value}": form for form in Format} | {".jsonl": Format.NDJSON}


def format_of(path: Path) -> Format:
    """The format that the ending of a file's name stands for. Raises UsageError for other endings."""
    if form := FORMAT_BY_ENDING.get(path.suffix.lower()):
        return form
    known = ", ".join(FORMAT_BY_ENDING)
    raise UsageError(f"--to {path}: the format is not clear: end the name with {known}, or give --format")


def rejected_rows(rejects: pl.LazyFrame, kept: Sequence[str] = ()) -> pl.LazyFrame:
    """The rows of rejects.parquet, as rows of an export (columns: COLUMNS, then those `kept`)."""
    return rejects.with_columns(status=pl.lit("rejected")).select(*COLUMNS, *kept)


def device_rows(
    states: pl.LazyFrame, status: DeviceStatus | None = None, kept: Sequence[str] = ()
) -> pl.LazyFrame:
    """Devices of the read model, as rows of an export: all, or only those with `status`.

    Columns: COLUMNS, then those `kept`.

    A device of a migration has the old SKU, so that the export can be migrated again.
    """
    shown = states if status is None else states.filter(pl.col("status") == status.value)
    return shown.with_columns(
        sku_number=pl.coalesce("from_sku", "sku_number"), reason="error_code", message="error_message"
    ).select(*COLUMNS, *kept)


def write_export(rows: pl.LazyFrame, form: Format, to: Path | BinaryIO) -> int:
    """Write rows (columns: COLUMNS, perhaps more), sorted by source and row. Returns the number of rows.

    A path is written whole or not at all. Raises UsageError if the rows do not fit a sheet, or if XLSX is not
    installed.
    """
    if form is Format.XLSX:
        _sheets()
    count = int(rows.select(pl.len()).collect().item())
    if form is Format.XLSX and count > XLSX_ROWS:
        raise UsageError(
            f"{counted(count, 'row')} do not fit a sheet, which holds {XLSX_ROWS:,}: export them as csv"
        )
    rows = rows.sort("source", "row")
    if isinstance(to, Path):
        with replacing(to) as path, path.open("wb") as file:
            _write(rows, form, file)
    else:
        _write(rows, form, to)
    return count


def _write(rows: pl.LazyFrame, form: Format, file: BinaryIO) -> None:
    match form:
        case Format.CSV:
            rows.with_columns(_escaped()).sink_csv(file)
        case Format.XLSX:
            _write_sheet(rows.with_columns(_escaped()), file)
        case Format.NDJSON:
            rows.sink_ndjson(file)
        case Format.PARQUET:
            rows.sink_parquet(file)


def _escaped() -> pl.Expr:
    """The cells, with an apostrophe before those that a spreadsheet would run."""
    cell = pl.col(pl.String)
    return pl.when(cell.str.contains(RUNS_AS_FORMULA)).then("'" + cell).otherwise(cell).name.keep()


def _write_sheet(rows: pl.LazyFrame, file: BinaryIO) -> None:
    """Write one sheet with text cells, so that no identifier becomes a number. Memory does not hold rows.

    The book is made in a temporary file: one that can't be finished leaves no half-open archive behind.
    """
    with TemporaryFile() as book:
        _write_book(rows, book)
        book.seek(0)
        shutil.copyfileobj(book, file)


def can_write_sheets() -> bool:
    """Whether the library for XLSX is installed."""
    return find_spec("xlsxwriter") is not None


def _sheets() -> ModuleType:
    try:
        import xlsxwriter  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(NO_SHEETS) from None
    return cast("ModuleType", xlsxwriter)


def _write_book(rows: pl.LazyFrame, file: BinaryIO) -> None:
    with _sheets().Workbook(file, {"constant_memory": True, "strings_to_urls": False}) as book:
        sheet = book.add_worksheet("devices")
        titles = rows.collect_schema().names()
        sheet.set_column(0, len(titles) - 1, 24, book.add_format({"num_format": "@"}))
        for column, title in enumerate(titles):
            sheet.write_string(0, column, title)
        at = 1
        for frame in rows.collect_batches(chunk_size=ROWS_PER_FRAME, maintain_order=True, engine="streaming"):
            if at + frame.height > XLSX_ROWS + 1:  # a row was added during the export
                raise UsageError(f"more rows than a sheet holds ({XLSX_ROWS:,}): export them as csv")
            for cells in frame.cast(pl.String).iter_rows():
                for column, cell in enumerate(cells):
                    if cell is None:
                        continue
                    is_cut = sheet.write_string(at, column, cell) != 0
                    if is_cut and titles[column] not in COLUMNS:  # a cut identifier is as wrong as before
                        raise UsageError(
                            f"a cell of the column {titles[column]!r} has {len(cell):,} characters, more "
                            "than a sheet holds: export the rows as csv"
                        )
                at += 1

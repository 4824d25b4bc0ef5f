"""The rows that need a person's eye, as a file to send back: what was wrong, beside the cells as they stood.

A corrected export can be planned again: its `imei`, `iccid`, `account_name` and `sku_number` are columns that
the reader knows, and it takes off the apostrophe that keeps a spreadsheet from running a cell.
"""

from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import polars as pl
import xlsxwriter  # type: ignore[import-untyped]

from batchlic.atomic import replacing
from batchlic.errors import RunFolderError, UsageError
from batchlic.runs.folder import RunFolder

COLUMNS = ("source", "row", "imei", "iccid", "account_name", "sku_number", "status", "reason", "message")
"""Columns of every export; `status` is that of results.parquet, or `rejected`."""

XLSX_ROWS = 2**20 - 1
"""Rows that fit a sheet below its header."""
ROWS_AT_ONCE = 50_000

RUNS_AS_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""Cells that spreadsheets may run (OWASP, CSV Injection)."""


class What(StrEnum):
    """Which rows to export."""

    REJECTS = "rejects"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    ALL = "all"


class Format(StrEnum):
    """What to write them as; CSV and XLSX are made safe for spreadsheets, the others hold the plain cells."""

    CSV = "csv"
    XLSX = "xlsx"
    NDJSON = "ndjson"
    PARQUET = "parquet"


def export(run_dir: Path, what: What, form: Format, to: Path | BinaryIO) -> int:
    """Write rows of a run, by source and row, and return how many.

    A path is written whole or not at all. Raises RunFolderError where the run has no such file yet,
    UsageError where the rows do not fit a sheet.
    """
    rows = _rows(RunFolder(run_dir), what)
    count = int(rows.select(pl.len()).collect().item())
    if form is Format.XLSX and count > XLSX_ROWS:
        raise UsageError(f"{count:,} rows do not fit a sheet, which holds {XLSX_ROWS:,}: export them as csv")
    rows = rows.sort("source", "row")
    if isinstance(to, Path):
        with replacing(to) as path, path.open("wb") as file:
            _write(rows, form, file)
    else:
        _write(rows, form, to)
    return count


def _rows(folder: RunFolder, what: What) -> pl.LazyFrame:
    rejects = _scan(folder.rejects).with_columns(status=pl.lit("rejected"))
    if what is What.REJECTS:
        return rejects.select(COLUMNS)
    results = _scan(folder.results).with_columns(reason="error_code", message="error_message")
    if "from_sku" in results.collect_schema():  # what a migration left can be given to it again
        results = results.with_columns(sku_number=pl.coalesce("from_sku", "sku_number"))
    if what is not What.ALL:
        return results.filter(pl.col("status") == what.value).select(COLUMNS)
    return pl.concat([results.select(COLUMNS), rejects.select(COLUMNS)], how="vertical_relaxed")


def _scan(path: Path) -> pl.LazyFrame:
    if not path.is_file():
        raise RunFolderError(f"{path.parent}: there is no {path.name}: the run has not come that far")
    return pl.scan_parquet(path)


def _write(rows: pl.LazyFrame, form: Format, file: BinaryIO) -> None:
    match form:
        case Format.CSV:
            rows.with_columns(_harmless()).sink_csv(file)
        case Format.XLSX:
            _write_sheet(rows.with_columns(_harmless()), file)
        case Format.NDJSON:
            rows.sink_ndjson(file)
        case Format.PARQUET:
            rows.sink_parquet(file)


def _harmless() -> pl.Expr:
    """Text that a spreadsheet takes for text."""
    cell = pl.col(pl.String)
    return pl.when(cell.str.contains(RUNS_AS_FORMULA)).then("'" + cell).otherwise(cell).name.keep()


def _write_sheet(rows: pl.LazyFrame, file: BinaryIO) -> None:
    """One sheet, all cells text, so that no identifier becomes a number; rows go to disk as they come."""
    with xlsxwriter.Workbook(file, {"constant_memory": True, "strings_to_urls": False}) as book:
        sheet = book.add_worksheet("devices")
        sheet.set_column(0, len(COLUMNS) - 1, 24, book.add_format({"num_format": "@"}))
        for column, title in enumerate(COLUMNS):
            sheet.write_string(0, column, title)
        at = 1
        for frame in rows.collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True, engine="streaming"):
            for cells in frame.cast(pl.String).iter_rows():
                for column, cell in enumerate(cells):
                    if cell is not None:
                        sheet.write_string(at, column, cell)
                at += 1

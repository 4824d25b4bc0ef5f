"""Devices and inventories for tests, and their plans."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xlsxwriter  # type: ignore[import-untyped]
from stdnum import luhn

from batchlic.chunker import Plan, write_plan
from batchlic.reader import ReadOptions

ACCOUNT = "0000123456-00001"
SKU = "SIMSec-IoT"
JOB = ReadOptions(account=ACCOUNT, sku=SKU)


def imei(number: int) -> str:
    """The valid IMEI of one model with that serial number."""
    body = f"86450803{number:06d}"
    return body + luhn.calc_check_digit(body)


def iccid(number: int, digits: int = 20) -> str:
    """The valid ICCID with that serial number and number of digits."""
    body = "89148000" + str(number).zfill(digits - 9)
    return body + luhn.calc_check_digit(body)


def csv_of(rows: Iterable[Sequence[str]], header: str = "IMEI,ICCID", separator: str = ",") -> bytes:
    """Rows as CSV in UTF-8."""
    lines = [header.replace(",", separator), *(separator.join(row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def as_workbook(sheets: Mapping[str, Iterable[Sequence[object]]]) -> bytes:
    """Sheets as XLSX; text becomes text cells, numbers become number cells."""
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
    return file.getvalue()


def as_sheet(rows: Iterable[Sequence[object]]) -> bytes:
    """One sheet as XLSX."""
    return as_workbook({"Fleet": rows})


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and its files."""

    summary: Plan
    plan: pl.DataFrame
    rejects: pl.DataFrame

    @property
    def devices(self) -> list[tuple[str | None, str | None]]:
        """IMEI and ICCID of the planned rows, in the order of the input."""
        return self.plan.sort("source", "row").select("imei", "iccid").rows()

    @property
    def reasons(self) -> dict[int, str]:
        """Reason per rejected row of a single input."""
        return dict(self.rejects.select("row", "reason").iter_rows())

    def message(self, row: int) -> str:
        """The message of a rejected row of a single input."""
        return str(self.rejects.filter(pl.col("row") == row)["message"].item())


def plan_files(folder: Path, *names: str, options: ReadOptions = JOB, batch_size: int = 100) -> Planned:
    """Plan existing inventories, and assert conservation (promise A)."""
    summary = write_plan(names, options, batch_size=batch_size, folder=folder)
    plan, rejects = pl.read_parquet(folder / "plan.parquet"), pl.read_parquet(folder / "rejects.parquet")
    assert summary.rows_read == summary.planned + sum(summary.rejected.values())
    assert (summary.planned, sum(summary.rejected.values())) == (plan.height, rejects.height)
    assert summary.rejected == dict(rejects["reason"].value_counts().iter_rows())
    return Planned(summary, plan, rejects)


def plan_bytes(folder: Path, content: bytes, name: str = "inventory", options: ReadOptions = JOB) -> Planned:
    """Write one inventory and plan it."""
    path = folder / name
    path.write_bytes(content)
    return plan_files(folder, str(path), options=options)


def plan_rows(
    folder: Path, rows: Iterable[Sequence[str]], options: ReadOptions = JOB, header: str = "IMEI,ICCID"
) -> Planned:
    """Write rows as CSV and plan them."""
    return plan_bytes(folder, csv_of(rows, header), options=options)


def plan_frame(folder: Path, columns: Mapping[str, object], options: ReadOptions = JOB) -> Planned:
    """Write typed columns as parquet and plan them."""
    path = folder / "typed.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return plan_files(folder, str(path), options=options)

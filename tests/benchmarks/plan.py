"""`make bench-plan`: compare planning with a plain copy to parquet, and with the same rules in SQL by DuckDB.

A second table compares the formats of the inventory: the same rows in CSV, JSON, parquet and XLSX.

Each measurement has its own process. Compare figures of one run of the benchmark only.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import duckdb
import polars as pl
import xlsxwriter  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 2
ACCOUNT, SKU = "0000123456-00001", "SIMSec-IoT"


@dataclass(frozen=True)
class Measured:
    """One process: seconds from start to end, seconds of CPU, and its peak memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("rows", type=int, nargs="*", help="more sizes, in rows, after 1 and 10 million")
    arguments.add_argument("--formats", action="store_true", help="compare the formats, and nothing else")
    arguments.add_argument("--only", choices=[*PARTS], help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help="folder for all files (default: a temporary one)")
    chosen = arguments.parse_args()
    if chosen.only:
        PARTS[chosen.only](chosen.folder)
        return
    print(f"{os.cpu_count()} cores, polars {pl.__version__}, DuckDB {duckdb.__version__}")
    for rows, formats in FORMATS.items():
        with TemporaryDirectory(prefix="batchlic-bench-", dir=chosen.folder) as folder:
            compare_formats(rows, formats, Path(folder))
    if chosen.formats:
        return
    titles = f"{'rows':>12} {'program':>14} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}"
    print(f"{titles} {'wall of copy':>12} {'CPU of copy':>12}", flush=True)
    for rows in [1_000_000, 10_000_000, *chosen.rows]:
        with TemporaryDirectory(prefix="batchlic-bench-", dir=chosen.folder) as folder:
            compare(rows, Path(folder))


def generate(rows: int, folder: Path) -> None:
    # Another process generates the inventory: the peak memory of a fork includes that of its parent.
    measure(
        [sys.executable, str(ROOT / "sample_data/generate.py"), "--rows", str(rows), "--out", "fleet.csv"],
        folder,
    )


def plan_command(inventory: str) -> list[str]:
    program = str(Path(sys.executable).with_name("batchlic"))
    return [program, "plan", inventory, "--account", ACCOUNT, "--sku", SKU]


def part_command(part: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--folder", ".", "--only", part]


def compare(rows: int, folder: Path) -> None:
    """Print the best figures of each program for one inventory, of ROUNDS rounds. The programs take turns."""
    generate(rows, folder)
    programs = {
        "polars copy": part_command("copy"),
        "batchlic plan": plan_command("fleet.csv"),
        "DuckDB": part_command("duckdb"),
    }
    best = best_of(programs, folder)
    copied = best["polars copy"]
    for name, run in best.items():
        figures = f"{run.seconds:>8.1f} {run.cpu:>8.1f} {run.peak_mb:>8.0f}"
        ratios = f"{run.seconds / copied.seconds:>12.2f} {run.cpu / copied.cpu:>12.2f}"
        print(f"{rows:>12,} {name:>14} {figures} {ratios}", flush=True)


def compare_formats(rows: int, formats: Sequence[str], folder: Path) -> None:
    """Print the best figures of `batchlic plan` for the same rows in each format."""
    generate(rows, folder)
    for name in formats:
        measure(part_command(name), folder)
    best = best_of({name: plan_command(f"fleet.{name}") for name in ("csv", *formats)}, folder)
    titles = f"{'rows':>12} {'format':>14} {'wall s':>8} {'CPU s':>8} {'rows/s':>10} {'peak MB':>8}"
    print(f"{titles} {'wall of CSV':>12} {'CPU of CSV':>12}")
    for name, run in best.items():
        figures = f"{run.seconds:>8.1f} {run.cpu:>8.1f} {rows / run.seconds:>10,.0f} {run.peak_mb:>8.0f}"
        ratios = f"{run.seconds / best['csv'].seconds:>12.2f} {run.cpu / best['csv'].cpu:>12.2f}"
        print(f"{rows:>12,} {name:>14} {figures} {ratios}", flush=True)


def best_of(programs: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Measured]:
    rounds = [{name: measure(command, folder) for name, command in programs.items()} for _ in range(ROUNDS)]
    return {
        name: min((figures[name] for figures in rounds), key=lambda run: run.seconds) for name in programs
    }


def measure(command: Sequence[str], folder: Path) -> Measured:
    """Run a command and return its figures. Planning may exit with 3: a few rows are invalid."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 3}:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Measured(seconds, usage.ru_utime + usage.ru_stime, peak)


def copy(folder: Path) -> None:
    """Convert the file to parquet with polars, and do nothing else."""
    pl.scan_csv(folder / "fleet.csv", infer_schema=False).sink_parquet(folder / "copy.parquet")


def as_ndjson(folder: Path) -> None:
    """Write the rows as one object per line."""
    pl.scan_csv(folder / "fleet.csv", infer_schema=False).sink_ndjson(folder / "fleet.ndjson")


def as_json(folder: Path) -> None:
    """Write the rows as one array of objects."""
    rows = pl.scan_csv(folder / "fleet.csv", infer_schema=False)
    with (folder / "fleet.json").open("w") as file:
        for number, row in enumerate(
            row for batch in rows.collect_batches() for row in batch.iter_rows(named=True)
        ):
            file.write(("," if number else "[") + json.dumps(row))
        file.write("]")


def as_parquet(folder: Path) -> None:
    """Write the rows as parquet."""
    pl.scan_csv(folder / "fleet.csv", infer_schema=False).sink_parquet(folder / "fleet.parquet")


def as_xlsx(folder: Path) -> None:
    """Write the rows as one sheet of text."""
    with (folder / "fleet.csv").open(newline="") as file, xlsxwriter.Workbook(folder / "fleet.xlsx") as book:
        sheet = book.add_worksheet("Fleet")
        for number, row in enumerate(csv.reader(file)):
            for column, cell in enumerate(row):
                sheet.write_string(number, column, cell)


def plan_in_sql(folder: Path) -> None:
    """Plan by the same rules in SQL: clean and check identifiers, find duplicates, sort, cut batches."""
    connection = duckdb.connect(config={"temp_directory": str(folder / "duckdb")})
    os.chdir(folder)
    connection.execute(SQL)


def _luhn(digits: int) -> str:
    pairs = [f"n // {10**at} % 100" for at in range(0, digits, 2)]
    return " + ".join(f"({pair} - 8 * ({pair} // 10) - 9 * ({pair} // 10 > 4)::BIGINT)" for pair in pairs)


SQL = rf"""
CREATE MACRO luhn(n) AS ({_luhn(18)}) % 10;
CREATE MACRO cleaned(cell) AS nullif(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    trim(cell, ' ' || chr(160)), '^="(.*)"$', '\1'), '^([0-9]+)\.0+$', '\1'), '[\s.-]', '', 'g'),
    '^(N/A|#N/A|NULL|none)$', ''), '');
CREATE MACRO bare(cell, plain) AS CASE WHEN regexp_full_match(cell, plain) THEN cell ELSE cleaned(cell) END;
CREATE TABLE judged AS
WITH cells AS (
    SELECT row_number() OVER () AS ordinal, "Device IMEI" AS imei_cell, "SIM ICCID" AS iccid_cell,
        bare("Device IMEI", '[0-9]{{15}}') AS imei, bare("SIM ICCID", '89[0-9]{{18}}') AS iccid
    FROM read_csv('fleet.csv', all_varchar = true)
), numbers AS (
    SELECT *, try_cast(imei AS BIGINT) AS imei_n, try_cast(iccid[3:] AS BIGINT) AS rest_n FROM cells
)
SELECT *, CASE
    WHEN imei_cell ~ '^[0-9.,]+[eE][+-]?[0-9]+$' THEN 'mangled_number'
    WHEN imei_n IS NULL AND imei IS NOT NULL THEN 'not_digits'
    WHEN length(imei) = 16 THEN 'imeisv'
    WHEN length(imei) != 15 THEN 'bad_length'
    WHEN luhn(imei_n) != 0 THEN 'bad_check_digit'
    WHEN rest_n IS NULL AND iccid IS NOT NULL THEN 'not_digits'
    WHEN length(iccid) NOT BETWEEN 18 AND 20 THEN 'bad_length'
    WHEN iccid[:2] != '89' THEN 'bad_iccid_prefix'
    WHEN (luhn(rest_n) + 16 + length(iccid) % 2) % 10 != 0 THEN 'bad_check_digit'
    WHEN imei IS NULL AND iccid IS NULL THEN 'missing_identifier'
END AS reason FROM numbers;
CREATE TABLE sharing AS
SELECT ordinal, imei_n, rest_n FROM judged WHERE reason IS NULL AND (
    imei_n IN (SELECT imei_n FROM judged WHERE reason IS NULL GROUP BY imei_n HAVING count(*) > 1)
    OR rest_n IN (SELECT rest_n FROM judged WHERE reason IS NULL GROUP BY rest_n HAVING count(*) > 1));
CREATE TABLE duplicates AS
SELECT ordinal, CASE
    WHEN min(rest_n) OVER same_imei != max(rest_n) OVER same_imei
        OR min(imei_n) OVER same_sim != max(imei_n) OVER same_sim THEN 'conflict'
    WHEN row_number() OVER (PARTITION BY imei_n ORDER BY ordinal) > 1
        OR row_number() OVER (PARTITION BY rest_n ORDER BY ordinal) > 1 THEN 'duplicate'
END AS reason
FROM sharing WINDOW same_imei AS (PARTITION BY imei_n), same_sim AS (PARTITION BY rest_n);
COPY (
    SELECT 'fleet.csv' AS source, ordinal AS row, coalesce(duplicates.reason, judged.reason) AS reason,
        imei_cell, iccid_cell
    FROM judged LEFT JOIN duplicates USING (ordinal)
    WHERE coalesce(duplicates.reason, judged.reason) IS NOT NULL
    ORDER BY ordinal
) TO 'sql_rejects.parquet';
COPY (
    SELECT (row_number() OVER (ORDER BY imei_n NULLS LAST, rest_n) - 1) // 100 + 1 AS batch_id,
        'fleet.csv' AS source, ordinal AS row, imei, iccid, '{ACCOUNT}' AS account_name, '{SKU}' AS sku_number
    FROM judged WHERE reason IS NULL
        AND ordinal NOT IN (SELECT ordinal FROM duplicates WHERE reason IS NOT NULL)
    ORDER BY imei_n NULLS LAST, rest_n
) TO 'sql_plan.parquet' (COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 50000);
"""  # noqa: S608 - the SQL contains constants of this file only

PARTS = {
    "copy": copy,
    "duckdb": plan_in_sql,
    "ndjson": as_ndjson,
    "json": as_json,
    "parquet": as_parquet,
    "xlsx": as_xlsx,
}
"""What a process of its own does, by `--only`."""
FORMATS = {1_000_000: ("ndjson", "json", "parquet"), 300_000: ("xlsx",)}
"""The formats beside CSV, by the number of rows. A sheet has at most 1,048,576."""


if __name__ == "__main__":
    main()

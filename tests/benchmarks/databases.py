"""`make bench-databases`: compare planning the rows of a query with planning the same rows of a CSV file.

The tables have all ten columns of the file as text; the query reads the two identifiers. The memory is that
of batchlic, which DuckDB and SQLite are a part of. Compare figures of one run of the benchmark only.
"""

import argparse
import csv
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl
import psycopg

from tests.benchmarks.plan import best_of, generate, measure, plan_command
from tests.postgresql import running_server

QUERY = 'SELECT "Device IMEI" AS imei, "SIM ICCID" AS iccid FROM fleet'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", help="sizes, in rows (default: 1,000,000)")
    parser.add_argument("--only", choices=[*TABLES], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only:
        TABLES[chosen.only](Path(), chosen.url)
        return
    print(f"{os.cpu_count()} cores, polars {pl.__version__}, DuckDB {duckdb.__version__}, load {load():.1f}")
    titles = f"{'rows':>12} {'inventory':>12} {'wall s':>8} {'CPU s':>8} {'rows/s':>10} {'peak MB':>8}"
    print(f"{titles} {'wall of CSV':>12} {'CPU of CSV':>12}", flush=True)
    for rows in chosen.rows or [1_000_000]:
        with TemporaryDirectory(prefix="batchlic-bench-") as folder:
            compare(rows, Path(folder))
    print(f"load {load():.1f}")


def load() -> float:
    """The load of the machine in the last minute."""
    return os.getloadavg()[0]


def compare(rows: int, folder: Path) -> None:
    """Print the best figures of each inventory."""
    generate(rows, folder)
    with running_server() as server:
        for name in TABLES:  # in other processes: the peak memory of a fork includes that of its parent
            command = [sys.executable, str(Path(__file__).resolve()), "--only", name, "--url", server.url()]
            measure(command, folder)
        commands = {
            "CSV": plan_command("fleet.csv"),
            **{
                name: [*plan_command(address), "--query", QUERY]
                for name, address in (
                    ("SQLite", "sqlite:///fleet.db"),
                    ("DuckDB", "duckdb:///fleet.duckdb"),
                    ("PostgreSQL", server.url()),
                )
            },
        }
        best = best_of(commands, folder)
    for name, run in best.items():
        figures = f"{run.seconds:>8.1f} {run.cpu:>8.1f} {rows / run.seconds:>10,.0f} {run.peak_mb:>8.0f}"
        ratios = f"{run.seconds / best['CSV'].seconds:>12.2f} {run.cpu / best['CSV'].cpu:>12.2f}"
        print(f"{rows:>12,} {name:>12} {figures} {ratios}", flush=True)


def header_of(folder: Path) -> list[str]:
    """The names of the columns of the file."""
    with (folder / "fleet.csv").open(newline="") as file:
        return next(csv.reader(file))


def columns_of(folder: Path) -> str:
    """The columns of a table, all of them text."""
    return ", ".join(f'"{name}" TEXT' for name in header_of(folder))


def as_sqlite(folder: Path, _: str) -> None:
    """Copy the rows to a table of SQLite."""
    marks = ", ".join("?" * len(header_of(folder)))
    with (
        (folder / "fleet.csv").open(newline="") as file,
        closing(sqlite3.connect(folder / "fleet.db")) as store,
    ):
        rows = csv.reader(file)
        next(rows)
        store.execute(f"CREATE TABLE fleet ({columns_of(folder)})")
        store.executemany(f"INSERT INTO fleet VALUES ({marks})", rows)  # noqa: S608
        store.commit()


def as_duckdb(folder: Path, _: str) -> None:
    """Copy the rows to a table of DuckDB."""
    with closing(duckdb.connect(str(folder / "fleet.duckdb"))) as store:
        source = str(folder / "fleet.csv")
        store.execute("CREATE TABLE fleet AS SELECT * FROM read_csv(?, all_varchar = true)", [source])


def as_postgresql(folder: Path, url: str) -> None:
    """Copy the rows to a table of PostgreSQL."""
    with psycopg.connect(url) as store, (folder / "fleet.csv").open("rb") as file:
        store.execute(f"CREATE TABLE fleet ({columns_of(folder)})".encode())
        with store.cursor().copy("COPY fleet FROM STDIN WITH (FORMAT csv, HEADER)") as target:
            while chunk := file.read(1 << 20):
                target.write(chunk)


TABLES = {"sqlite": as_sqlite, "duckdb": as_duckdb, "postgresql": as_postgresql}

if __name__ == "__main__":
    main()

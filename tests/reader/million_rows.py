"""Part of `make fuzz`: plan a million random rows in files of all formats, and look for every one of them.

A row is lost if neither the plan nor the rejects have it under its number. A file is refused only in error:
all of them are well-formed, with odd characters in their cells.
"""

import argparse
import bz2
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeAlias
from xml.sax.saxutils import escape

import polars as pl
import xlsxwriter  # type: ignore[import-untyped]

from batchlic.errors import UsageError
from tests.reader.binary_workbooks import Cell, as_xls, as_xlsb
from tests.reader.builders import JOB, iccid, imei, plan_files
from tests.reader.test_conservation import as_tar, as_zip, legal_in_xml, quoted
from tests.reader.test_formats import as_ods

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Rows: TypeAlias = Sequence[Sequence[str]]
HEADERS = ("IMEI", "ICCID", "Notes")
ODD: tuple[str, ...] = tuple("\n\f\v\x85\u2028\0\x1e\x1a\ufeff\"',;\t|{[#é\xa0\\\U0001f4f1")
ODD = (*ODD, "\r\n", '""', "]}", "<row>", "&amp;", "=1+1", "IMEI", "NaN", "\u4e2d\u6587")


@dataclass
class Counts:
    """Rows of one format."""

    files: int = 0
    written: int = 0
    planned: int = 0
    rejected: int = 0
    refused: int = 0
    lost: int = 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="rows in all formats together")
    arguments.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), help="repeats a run")
    chosen = arguments.parse_args()
    random, start, number = Random(chosen.seed), perf_counter(), 0
    print(f"seed {chosen.seed}: make fuzz SEED={chosen.seed} repeats this run")
    print(
        f"{'format':>14} {'files':>6} {'rows':>9} {'planned':>9} {'rejected':>9} {'refused':>8} {'lost':>5}"
    )
    totals = Counts()
    for name, write in FORMATS.items():
        counts = Counts()
        last = number + chosen.rows // len(FORMATS)
        while number < last:
            size = min(random.choice((1, 3, 200, 5_000, 40_000)), last - number)
            with TemporaryDirectory(prefix="batchlic-fuzz-") as folder:
                plan(write, list(rows(random, number, size)), random, Path(folder), counts)
            number += size
        show(name, counts)
        for field, count in vars(counts).items():
            setattr(totals, field, getattr(totals, field) + count)
    show("all", totals)
    print(f"{perf_counter() - start:.0f} s")
    if totals.lost or totals.refused:
        raise SystemExit(1)


def show(name: str, counts: Counts) -> None:
    figures = f"{counts.files:>6,} {counts.written:>9,} {counts.planned:>9,} {counts.rejected:>9,}"
    print(f"{name:>14} {figures} {counts.refused:>8,} {counts.lost:>5,}", flush=True)


def rows(random: Random, first: int, count: int) -> Iterator[list[str]]:
    """Rows with identifiers of their own; one in ten is not valid."""
    for number in range(first, first + count):
        note = "".join(random.choices(ODD, k=random.choice((0, 0, 0, 1, 3))))
        match random.randrange(10):
            case 0:
                yield [f"x{number}x{note}", "", ""]
            case 1:
                yield [imei(number), "", note]
            case 2:
                yield ["", iccid(number), note]
            case _:
                yield [imei(number), iccid(number), note]


def plan(
    write: Callable[[Rows, Random], bytes],
    written: list[list[str]],
    random: Random,
    folder: Path,
    counts: Counts,
) -> None:
    """Write rows to a file, plan it, and count the rows that are not where they belong."""
    counts.files += 1
    counts.written += len(written)
    path = folder / "inventory"
    path.write_bytes(write(written, random))
    planned = None
    with suppress(UsageError):
        planned = plan_files(folder, str(path), options=JOB)
    if planned is None:
        counts.refused += len(written)
        return
    counts.planned += planned.plan.height
    counts.rejected += planned.rejects.height
    starts, start = {}, 0
    for source in planned.summary.sources:
        starts[source.name] = start
        start += source.rows
    found: dict[int, list[tuple[str, str]]] = {}
    for frame in (planned.plan, planned.rejects):
        for source_name, row, *cells in frame.select("source", "row", "imei", "iccid").iter_rows():
            found.setdefault(starts[source_name] + row - 1, []).append((cells[0] or "", cells[1] or ""))
    for number, cells in enumerate(written):
        at_number = found.pop(number, [])
        is_found = len(at_number) == 1 and (at_number[0] == (*cells[:2],) or is_same(at_number[0], cells))
        counts.lost += not is_found
    counts.lost += len(found)  # rows that nobody wrote


def is_same(found: tuple[str, str], written: Sequence[str]) -> bool:
    """Whether a row that is not valid has its token."""
    token = "x".join(written[0].split("x")[:2]) + "x"
    return written[0].startswith("x") and found[0].startswith(token)


# -- formats --------------------------------------------------------------------------------------------


def as_csv(written: Rows, random: Random) -> bytes:
    separator = random.choice(",;\t|^~")
    special = random.choice((f'{separator}"\r\n', ""))
    lines = [separator.join(quoted(cell, special) for cell in row) for row in (HEADERS, *written)]
    text = "\n".join(lines) + random.choice(("\n", ""))
    if "\r" not in text:
        text = text.replace("\n", random.choice(("\n", "\r\n", "\r", "\r\r\n")))
    return text.encode(random.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le")))


def objects(written: Rows) -> list[dict[str, str]]:
    return [dict(zip(HEADERS, row, strict=True)) for row in written]


def as_ndjson(written: Rows, random: Random) -> bytes:
    is_ascii = random.random() < 0.5
    return "".join(json.dumps(row, ensure_ascii=is_ascii) + "\n" for row in objects(written)).encode()


def as_list(written: Rows, random: Random) -> bytes:
    return json.dumps(objects(written), indent=random.choice((None, 1))).encode()


def as_pages(written: Rows, random: Random) -> bytes:
    size = random.choice((1, 100, 10_000))
    pages = [objects(written[start : start + size]) for start in range(0, len(written), size)]
    return random.choice(("\n", "", "\r\n\r\n")).join(map(json.dumps, pages)).encode()


def as_object(written: Rows, random: Random) -> bytes:
    found = {"total": len(written), "devices": objects(written), "page": {"next": None}}
    return json.dumps(found, indent=random.choice((None, 2))).encode()


def as_sequence(written: Rows, random: Random) -> bytes:
    indent = random.choice((None, 2))
    return "".join(f"\x1e{json.dumps(row, indent=indent)}\n" for row in objects(written)).encode()


def as_xlsx(written: Rows, random: Random) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"constant_memory": random.random() < 0.5}) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate((HEADERS, *written)):
            for column, cell in enumerate(row):
                sheet.write_string(number, column, cell)
    return file.getvalue()


def with_blanks(written: Rows, random: Random) -> list[list[Cell]]:
    blank: list[list[Cell]] = [[None]]
    lines: list[list[Cell]] = [[cell or None for cell in row] for row in (HEADERS, *written)]
    return [line for row in lines for line in ([row] if random.random() < 0.99 else [*blank, row])]


def in_ods(written: Rows, _: Random) -> bytes:
    return as_ods([[escape(legal_in_xml(cell)) for cell in row] for row in (HEADERS, *written)])


def frame(written: Rows) -> pl.DataFrame:
    return pl.DataFrame(written, schema=list(HEADERS), orient="row")


def as_parquet(written: Rows, random: Random) -> bytes:
    file = io.BytesIO()
    frame(written).write_parquet(file, row_group_size=random.choice((10, 1_000, 50_000)))
    return file.getvalue()


def as_arrow(written: Rows, random: Random) -> bytes:
    file = io.BytesIO()
    size = random.choice((100, 50_000))
    frame(written).write_ipc(
        file, record_batch_size=size, compression="zstd" if random.random() < 0.5 else "lz4"
    )
    return file.getvalue()


def as_arrow_stream(written: Rows, _: Random) -> bytes:
    file = io.BytesIO()
    frame(written).write_ipc_stream(file)
    return file.getvalue()


def packed(pack: Callable[[dict[str, bytes]], bytes], written: Rows, random: Random) -> bytes:
    """Several files of other formats in an archive, each of which may be compressed."""
    middle = random.randrange(len(written))
    parts = [part for part in (written[:middle], written[middle:]) if part]
    files = {}
    for number, part in enumerate(parts):
        write = random.choice([as_csv, as_ndjson, as_list, as_parquet])
        content = write(part, random)
        files[f"{number}.dat"] = gzip.compress(content) if random.random() < 0.5 else content
    return pack(files)


FORMATS: dict[str, Callable[[Rows, Random], bytes]] = {
    "CSV": as_csv,
    "CSV, gzip": lambda written, random: gzip.compress(as_csv(written, random), 1),
    "CSV, zstd": lambda written, random: zstd.compress(as_csv(written, random)),
    "CSV, bz2": lambda written, random: bz2.compress(as_csv(written, random)),
    "NDJSON": as_ndjson,
    "JSON list": as_list,
    "JSON pages": as_pages,
    "JSON object": as_object,
    "JSON sequence": as_sequence,
    "XLSX": as_xlsx,
    "XLSB": lambda written, random: as_xlsb(with_blanks(written, random)),
    "XLS": lambda written, random: as_xls(with_blanks(written, random)),
    "ODS": in_ods,
    "parquet": as_parquet,
    "Arrow": as_arrow,
    "Arrow stream": as_arrow_stream,
    "zip": lambda written, random: packed(as_zip, written, random),
    "tar.gz": lambda written, random: gzip.compress(packed(as_tar, written, random), 1),
}


if __name__ == "__main__":
    main()

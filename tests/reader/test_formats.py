"""Inventories are read in any format, encoding and shape of rows."""

import bz2
import gzip
import io
import json
import lzma
import os
import select
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pytest

from batchlic.errors import InventoryError, UsageError
from batchlic.reader import IdKind, ReadOptions
from tests.reader.builders import (
    ACCOUNT,
    SKU,
    as_sheet,
    as_workbook,
    csv_of,
    iccid,
    imei,
    plan_bytes,
    plan_files,
    plan_rows,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEVICES: list[tuple[str | None, str | None]] = [(imei(n), iccid(n)) for n in range(3)]
ROWS = [(imei(n), iccid(n)) for n in range(3)]
CSV = csv_of(ROWS)


def as_zip(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("export/fleet.csv", content)
    return packed.getvalue()


def as_ods(rows: Sequence[Sequence[str]]) -> bytes:
    """Text cells as a minimal OpenDocument spreadsheet."""
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    lines = "".join(f"<table:table-row>{''.join(map(cell.format, row))}</table:table-row>" for row in rows)
    spaces = " ".join(
        f'xmlns:{space}="urn:oasis:names:tc:opendocument:xmlns:{space}:1.0"'
        for space in ("office", "table", "text")
    )
    table = f'<table:table table:name="Fleet">{lines}</table:table>'
    body = f"<office:body><office:spreadsheet>{table}</office:spreadsheet></office:body>"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", f"<office:document-content {spaces}>{body}</office:document-content>")
    return packed.getvalue()


def frame_bytes(write: Callable[[pl.DataFrame, io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(pl.DataFrame(ROWS, schema=["imei", "iccid"], orient="row"), file)
    return file.getvalue()


NDJSON = b"".join(json.dumps({"imei": i, "iccid": c, "site": "x"}).encode() + b"\n" for i, c in ROWS)
FORMATS = {
    "comma": CSV,
    "semicolon": csv_of(ROWS, separator=";"),
    "tab": csv_of(ROWS, separator="\t"),
    "pipe": csv_of(ROWS, separator="|"),
    "separator hint": b"sep=;\n" + csv_of(ROWS, separator=";"),
    "gzip": gzip.compress(CSV),
    "zstd": zstd.compress(CSV),
    "bz2": bz2.compress(CSV),
    "xz": lzma.compress(CSV),
    "zip": as_zip(CSV),
    "gzip of ndjson": gzip.compress(NDJSON),
    "zip of parquet": as_zip(frame_bytes(pl.DataFrame.write_parquet)),
    "parquet": frame_bytes(pl.DataFrame.write_parquet),
    "arrow": frame_bytes(pl.DataFrame.write_ipc),
    "ndjson": NDJSON,
    "ndjson of numbers": b"".join(b'{"imei": %b, "iccid": %b}\n' % (i.encode(), c.encode()) for i, c in ROWS),
    "json array": json.dumps([{"imei": i, "iccid": c} for i, c in ROWS], indent=2).encode(),
    "workbook": as_sheet([["Site", "IMEI", "ICCID"], *(("a", i, c) for i, c in ROWS)]),
    "workbook with blank rows": as_sheet([[], ["IMEI", "ICCID"], [], *([i, c] for i, c in ROWS), ["", ""]]),
    "ODS": as_ods([["IMEI", "ICCID"], *ROWS]),
    "zip of a workbook": as_zip(as_sheet([["IMEI", "ICCID"], *ROWS])),
    "UTF-8 with BOM": b"\xef\xbb\xbf" + CSV,
    "UTF-16 with BOM": CSV.decode().encode("utf-16"),
    "UTF-16 big-endian": CSV.decode().encode("utf-16-be"),
    "UTF-32": CSV.decode().encode("utf-32"),
    "UTF-32 little-endian": CSV.decode().encode("utf-32-le"),
    "two byte order marks": b"\xef\xbb\xbf" * 2 + CSV,
    "Unicode text of a spreadsheet": csv_of(ROWS, separator="\t")
    .decode()
    .replace("\n", "\r\n")
    .encode("utf-16"),
    "Windows-1252": csv_of(((i, c, "Zürich \u2013 Süd") for i, c in ROWS), "IMEI,ICCID,Straße")
    .decode()
    .encode("cp1252"),
    "Latin-1": csv_of(((i, c, "\x81é") for i, c in ROWS), "IMEI,ICCID,Lieu").decode().encode("latin-1"),
    "CRLF": CSV.replace(b"\n", b"\r\n"),
    "CR": CSV.replace(b"\n", b"\r"),
    "no last newline": CSV.removesuffix(b"\n"),
    "blank lines": b"\n \n" + CSV.replace(b"\n", b"\n\n") + b"\n\n  \n",
    "blank lines, CRLF": CSV.replace(b"\n", b"\r\n\r\n"),
    "all cells quoted": csv_of(([f'"{i}"', f'"{c}"'] for i, c in ROWS), '"IMEI","ICCID"'),
    "quoted newlines": csv_of(((i, '"two\nlines, one ""cell"""', c) for i, c in ROWS), "IMEI,Notes,ICCID"),
    "quotes inside cells": csv_of(((i, 'a 5" antenna', c) for i, c in ROWS), "IMEI,Notes,ICCID"),
    "quoted separators": csv_of(((i, '"Dallas, TX"', c) for i, c in ROWS), "IMEI,Site,ICCID"),
    "long rows": csv_of((i, c, "more", "cells") for i, c in ROWS),
    "no header": CSV.partition(b"\n")[2],
}


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_the_content_shows_the_format(tmp_path: Path, content: bytes) -> None:
    planned = plan_bytes(tmp_path, content, name="inventory.dat")
    assert planned.devices == DEVICES
    assert planned.rejects.is_empty()
    assert planned.plan.sort("row")["row"].to_list() == [1, 2, 3]


def test_only_the_first_sheet_is_read_and_others_are_noted(tmp_path: Path) -> None:
    sheets = {"January": [["IMEI", "ICCID"], ROWS[0]], "February": [["IMEI", "ICCID"], ROWS[1]]}
    first = plan_bytes(tmp_path, as_workbook(sheets))
    assert first.devices == DEVICES[:1]
    assert "'February'" in first.summary.notes[0]
    second = plan_bytes(
        tmp_path, as_workbook(sheets), options=ReadOptions(account=ACCOUNT, sku=SKU, sheet="February")
    )
    assert second.devices == DEVICES[1:2]


def test_the_error_for_a_missing_sheet_lists_the_sheets(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="no sheet 'March'; its sheets are 'Fleet'"):
        plan_bytes(
            tmp_path,
            as_sheet([["IMEI"], [imei(1)]]),
            options=ReadOptions(account=ACCOUNT, sku=SKU, sheet="March"),
        )


def test_numbers_in_a_workbook_keep_15_digits(tmp_path: Path) -> None:
    planned = plan_bytes(
        tmp_path, as_sheet([["IMEI", "ICCID"], [int(imei(1)), ""], [int(imei(2)), int(iccid(2))]])
    )
    assert planned.devices == [(imei(1), None)]
    assert planned.reasons == {2: "mangled_number"}


def test_standard_input_is_an_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(CSV))))
    planned = plan_files(tmp_path, "-")
    assert planned.devices == DEVICES
    assert planned.plan["source"].unique().to_list() == ["-"]


def test_parquet_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FORMATS["parquet"])))
    assert plan_files(tmp_path, "-").devices == DEVICES


def test_a_named_pipe_is_an_inventory(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[FORMATS["parquet"]])
    writer.start()
    assert plan_files(tmp_path, str(pipe)).devices == DEVICES
    writer.join()


def test_a_signal_right_before_the_wait_for_a_pipe_is_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poll:
        """Waits in vain, and a signal comes before it waits again."""

        waits = 0

        def register(self, file: BinaryIO, events: int) -> None:
            assert (stat.S_ISFIFO(os.fstat(file.fileno()).st_mode), events) == (True, select.POLLIN)

        def poll(self, milliseconds: int) -> list[object]:
            self.waits += 1
            if self.waits == 3:
                raise KeyboardInterrupt
            assert milliseconds <= 1000
            return []

    monkeypatch.setattr("batchlic.reader.inputs.streams.select.poll", Poll)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyboardInterrupt):
        plan_files(tmp_path, str(tmp_path / "pipe"))


def test_several_files_globs_and_folders_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, row in zip(("b/2.csv", "b/1.csv", "a.csv"), ROWS, strict=True):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(csv_of([row]))
    (tmp_path / "b/.hidden").write_text("not an inventory")
    planned = plan_files(tmp_path, "*.csv", "b")
    assert [source.name for source in planned.summary.sources] == ["a.csv", "b/1.csv", "b/2.csv"]
    assert planned.devices == [DEVICES[2], DEVICES[1], DEVICES[0]]


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    path.write_bytes(CSV)
    with pytest.raises(UsageError, match="given twice"):
        plan_files(tmp_path, str(path), f"{tmp_path}/./fleet.csv")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b" \n\r\n  ", "the file is empty"),
        (gzip.compress(CSV * 100)[:-20], "damaged, cut off or locked"),
        (bz2.compress(CSV)[:-20], "damaged, cut off or locked"),
        (lzma.compress(CSV)[:-20], "damaged, cut off or locked"),
        (zstd.compress(CSV)[:-5], "damaged, cut off or locked"),
        (as_zip(CSV)[:-20], "damaged, cut off or locked"),
        (FORMATS["parquet"][:-20], "damaged"),
        (FORMATS["workbook"][:2000], "damaged, cut off or locked"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture: export the list"),
        (b"\x7fELF\2\1\1\0" + bytes(range(30)), "unknown format"),
        (b'{"imei": 1}\nnot json\n', "line 2: not JSON: 'not json"),
        (b'[{"imei": "1"}, 7]', "item 2 is 7, and not an object"),
        (b'[{"imei": "1"}', "line 1: the list is cut off"),
        (b'IMEI,Notes\n1,"never closed\n2,x\n', "a quote is out of place"),
    ],
)
def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint) as raised:
        plan_bytes(tmp_path, content, name="broken")
    assert str(tmp_path / "broken") in str(raised.value)
    assert not (tmp_path / "plan.parquet").exists()


@pytest.mark.parametrize(
    ("name", "complaint"), [("nowhere.csv", "can't be read"), ("no*.csv", "no file matches")]
)
def test_a_missing_file_is_an_error(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint):
        plan_files(tmp_path, str(tmp_path / name))


def test_cells_that_a_row_lacks_are_empty(tmp_path: Path) -> None:
    planned = plan_rows(
        tmp_path,
        [(imei(1), iccid(1), "x"), (imei(2), iccid(2)), (imei(3),), ("", "", "")],
        header="IMEI,ICCID,Site",
    )
    assert planned.devices == [(imei(1), iccid(1)), (imei(2), iccid(2)), (imei(3), None)]
    assert planned.reasons == {4: "missing_identifier"}


def test_a_row_that_ends_before_its_identifiers_is_short(tmp_path: Path) -> None:
    planned = plan_rows(tmp_path, [("x", imei(1)), ("y",)], header="Site,IMEI,ICCID")
    assert planned.devices == [(imei(1), None)]
    assert planned.reasons == {2: "short_row"}


def test_a_short_row_needs_the_identifiers_that_are_sent(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, id_kind=IdKind.BOTH)
    planned = plan_rows(tmp_path, [("x", imei(1)), ("y", imei(2), iccid(2))], options, "Site,IMEI,ICCID")
    assert planned.reasons == {1: "short_row"}


def test_repeated_headers_are_no_rows(tmp_path: Path) -> None:
    content = (
        CSV + b"\xef\xbb\xbf" + csv_of([(imei(8), iccid(8))]) + b'"IMEI","ICCID"\n' + csv_of([(imei(9), "x")])
    )
    planned = plan_bytes(tmp_path, content)
    assert planned.summary.rows_read == 5
    assert planned.plan.sort("row")["row"].to_list() == [1, 2, 3, 4]
    assert planned.reasons == {5: "not_digits"}


def test_columns_without_header_are_recognized_and_noted(tmp_path: Path) -> None:
    rows = [("AS-1", iccid(n), "Dallas", imei(n), ACCOUNT) for n in range(3)]
    planned = plan_bytes(tmp_path, csv_of(rows).partition(b"\n")[2])
    assert planned.devices == DEVICES
    assert "imei in column 4, iccid in column 2, account in column 5" in planned.summary.notes[0]


@pytest.mark.slow
def test_row_numbers_continue_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.reader.formats.delimited.BLOCK_BYTES", 200)
    rows = [(imei(n), '"a\nnote"' if n % 3 == 0 else "", iccid(n)) for n in range(100)]
    planned = plan_rows(tmp_path, rows, header="IMEI,Notes,ICCID")
    assert planned.devices == [(imei(n), iccid(n)) for n in range(100)]
    assert planned.plan.sort("row")["row"].to_list() == list(range(1, 101))


@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n \r\n", b"\n\n\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n"])
def test_a_single_line_is_a_row_whatever_is_around_it(tmp_path: Path, before: bytes, after: bytes) -> None:
    assert plan_bytes(tmp_path, before + imei(1).encode() + after).devices == [(imei(1), None)]

"""Files of every format with odd bytes: each row that is written is planned or rejected, once and in order.

Each row has a token in its identifier cells, so that it is found again whatever else happens to it. What is
expected depends on what is written only.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl
import pytest
import xlsxwriter  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlic.errors import UsageError
from batchlic.reader import ReadOptions
from tests.reader.binary_workbooks import Cell, as_xls, as_xlsb
from tests.reader.builders import ACCOUNT, SKU, Planned, as_sheet, csv_of, iccid, imei, plan_bytes
from tests.reader.test_formats import as_ods

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OPTIONS = ReadOptions(account=ACCOUNT, sku=SKU, allow_empty=True)
SERIALS = {text: number for number in range(10_000) for text in (imei(number), iccid(number))}
"""The token of each valid identifier."""


@dataclass(frozen=True)
class Table:
    """Rows under headers: those of the columns, and lines above them. Every row has the token in `tokens`."""

    titles: list[list[str]]
    imei_header: str
    iccid_header: str
    headers: list[str]
    rows: list[list[str]]
    tokens: list[int]

    @property
    def lines(self) -> list[list[str]]:
        """All lines of the table."""
        return [*self.titles, self.headers, *self.rows]


# -- rows -----------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.sampled_from(
        [
            "\n",
            "\r\n",
            "\r",
            "\r\r\n",
            "\f",
            "\v",
            "\x85",
            "\u2028",
            "\0",
            "\x1e",
            "\x1a",
            "\x1c",
            "\ufeff",
            "\u200b",
            '"',
            '""',
            '"x',
            "'",
            ",",
            ";",
            "\t",
            "|",
            "\\",
            "{",
            "[",
            "]",
            '{"imei": 1}',
            "#",
            "<row>",
            "&amp;",
            "=1+1",
            "IMEI",
            "ICCID",
            "sep=;",
            "NaN",
            "null",
            "é",
            "\u4e2d\u6587" * 20,
            "\U0001f4f1",
            "_x000D_",
            "\x1b[0m",
            " ",
            "\xa0",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
PLAIN = st.sampled_from(["", "a", "Dallas, TX", "depot 7", 'a 5" antenna', "Zürich"])


def noted(number: int, note: str) -> tuple[str, str]:
    """A row that is not valid, with its token."""
    return f"x{number}x{note}", ""


IDENTIFIERS: list[Callable[[int, str], tuple[str, str]]] = [
    lambda number, _: (imei(number), iccid(number)),
    lambda number, _: (imei(number), iccid(number)),
    lambda number, _: (imei(number), ""),
    lambda number, _: ("", iccid(number)),
    lambda number, _: (imei(number)[:-1], iccid(number)),
    lambda number, _: (f" {imei(number)} ", f'="{iccid(number)}"'),
    lambda number, note: (imei(number) + note, iccid(number)),
    lambda number, note: (note, iccid(number)),
    lambda number, note: (imei(number), note + iccid(number) + note),
    noted,
]
HEADERS = st.sampled_from(
    [("IMEI", "ICCID"), ("Device IMEI", "SIM"), ("imei", "iccid"), ("IMEI No.", "Sim Card Number")]
)
TITLES = st.sampled_from([[], ["Fleet report"], ["# exported by hand"], ["", "Fleet"], ["Fleet", "May"]])


@st.composite
def tables(draw: st.DrawFn, notes: st.SearchStrategy[str] = ODD) -> Table:
    """A table whose cells have these notes."""
    kinds = draw(st.lists(st.tuples(st.sampled_from(IDENTIFIERS), notes, notes), max_size=12))
    tokens = [draw(st.integers(0, 800)) * 12 + number for number in range(len(kinds))]
    imei_header, iccid_header = draw(HEADERS)
    columns = draw(st.permutations([imei_header, iccid_header, "Notes"]))
    cells = []
    for token, (identifiers, note, other) in zip(tokens, kinds, strict=True):
        row = dict(zip((imei_header, iccid_header), identifiers(token, note), strict=True)) | {"Notes": other}
        cells.append([row[column] for column in columns])
    titles = draw(st.lists(TITLES.filter(bool), max_size=2))
    return Table(titles, imei_header, iccid_header, list(columns), cells, tokens)


# -- formats --------------------------------------------------------------------------------------------


def json_rows(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.headers, row, strict=True)) for row in table.rows]


def quoted(cell: str, special: str) -> str:
    """A cell of CSV, quoted if it has a special character; if there is none, always."""
    return cell if special and not set(special) & set(cell) else '"' + cell.replace('"', '""') + '"'


@st.composite
def delimited(draw: st.DrawFn, notes: st.SearchStrategy[str] = ODD) -> tuple[Table, bytes]:
    """CSV with any separator, newline, quoting and encoding."""
    table = draw(tables(notes))
    separator = draw(st.sampled_from(",;\t|^~"))
    newline = draw(st.sampled_from(["\n", "\r\n", "\r", "\r\r\n", "\x85"]))
    special = draw(st.sampled_from([f'{separator}"\r\n', ""]))
    text = f"sep={separator}\n" if draw(st.booleans()) else ""
    for line in table.lines:
        text += separator.join(quoted(cell, special) for cell in line) + "\n"
    if newline != "\n" and not set("\r\x85") & set(text):  # or else cells have newlines of another kind
        text = text.replace("\n", newline)
    if draw(st.booleans()):
        text = text.removesuffix(newline)
    return table, draw(encoded(text))


@st.composite
def encoded(draw: st.DrawFn, text: str, names: Sequence[str] = ()) -> bytes:
    """A text in any encoding that has its characters."""
    encodings = names or ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1")
    possible = []
    for name in encodings:
        with suppress(UnicodeEncodeError):
            text.encode(name)
            possible.append(name)
    return text.encode(draw(st.sampled_from(possible)))


@st.composite
def in_json(draw: st.DrawFn, notes: st.SearchStrategy[str] = ODD) -> tuple[Table, bytes]:
    """JSON: lines, lists, pages of lists, lists in objects, sequences, lists of cells, nested objects."""
    table = draw(tables(notes))
    options = {"ensure_ascii": draw(st.booleans()), "indent": draw(st.sampled_from([None, 2]))}
    space = draw(st.sampled_from(["\n", "\r\n", "", " ", "\n\n", "\n\x1e"]))

    def dumped(value: object) -> str:
        return json.dumps(value, **options)  # type: ignore[arg-type]

    rows: list[object] = list(json_rows(table))
    cut = draw(st.integers(0, len(rows)))
    pages = [rows[:cut], rows[cut:]]
    form = draw(st.sampled_from(["values", "list", "pages", "object", "objects", "cells", "nested", "lines"]))
    match form:
        case "values":
            text = "".join(dumped(row) + space for row in rows)
        case "list":
            text = dumped(rows)
        case "pages":
            text = "".join(dumped(page) + space for page in pages)
        case "object":
            text = dumped({"total": len(rows), "devices": rows, "next": None})
        case "objects":
            text = "".join(dumped({"devices": page}) + space for page in pages if page)
        case "cells":
            text = dumped(table.lines)
        case "nested":
            text = "".join(dumped({"device": row, "id": "a"}) + space for row in rows)
            for header, key in ((table.imei_header, "imei"), (table.iccid_header, "iccid")):
                text = text.replace(json.dumps(header), json.dumps(key))
        case _:
            text = "".join(json.dumps(row) + "\n" for row in rows)
    return table, draw(encoded(text, ("utf-8", "utf-8-sig", "utf-16", "utf-16-le")))


def legal_in_xml(text: str) -> str:
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


@st.composite
def workbooks(draw: st.DrawFn, notes: st.SearchStrategy[str] = ODD) -> tuple[Table, bytes]:
    """A sheet of XLSX, XLSB, XLS or ODS, with blank rows between the others."""
    table = draw(tables(notes))
    lines = [
        line for at, line in enumerate(table.lines) for line in ([], line)[draw(st.integers(0, 5)) > 0 :]
    ]
    form = draw(st.sampled_from(["xlsx", "xlsx inline", "xlsb", "xls", "ods"]))
    if form == "ods":
        legal = [[escape(legal_in_xml(cell)) for cell in line] or [""] for line in lines]
        return table, as_ods(legal)
    if form in {"xlsb", "xls"}:
        cells: list[list[Cell]] = [[cell or None for cell in line] or [None] for line in lines]
        return table, as_xlsb(cells) if form == "xlsb" else as_xls(cells)
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"constant_memory": form == "xlsx inline"}) as book:
        sheet = book.add_worksheet("Fleet")
        for number, line in enumerate(lines):
            for column, cell in enumerate(line):
                if cell.isascii() and cell.isdigit() and len(cell) <= 15 and cell[0] != "0" and number % 2:
                    sheet.write_number(number, column, int(cell))
                else:
                    sheet.write_string(number, column, cell)
    return table, file.getvalue()


@st.composite
def typed(draw: st.DrawFn, notes: st.SearchStrategy[str] = ODD) -> tuple[Table, bytes]:
    """Parquet, an Arrow file, or an Arrow stream of several batches."""
    table = draw(tables(notes))
    dtype = draw(st.sampled_from([pl.String, pl.Categorical, pl.Binary]))
    frame = pl.DataFrame(table.rows, schema=dict.fromkeys(table.headers, pl.String), orient="row")
    frame = frame.with_columns(pl.all().replace("", None).cast(dtype))
    file = io.BytesIO()
    match draw(st.sampled_from(["parquet", "arrow", "stream"])):
        case "parquet":
            frame.write_parquet(file, row_group_size=draw(st.integers(1, 5)))
        case "arrow":
            frame.write_ipc(file, record_batch_size=draw(st.integers(1, 5)))
        case _:
            frame.write_ipc_stream(file)
    return table, file.getvalue()


def any_format(notes: st.SearchStrategy[str] = ODD) -> st.SearchStrategy[tuple[Table, bytes]]:
    return st.one_of(delimited(notes), in_json(notes), workbooks(notes), typed(notes))


# -- what is planned and rejected -----------------------------------------------------------------------


def token_of(imei_cell: str | None, iccid_cell: str | None) -> int | None:
    """The token in the identifier cells of a row, whatever is around it."""
    for cell in (imei_cell or "", iccid_cell or ""):
        if marked := re.search(r"x(\d+)x", cell):
            return int(marked[1])
        digits = re.sub(r"\D", "", cell)
        for length in (20, 15):
            for start in range(len(digits) - length + 1):
                if (number := SERIALS.get(digits[start : start + length])) is not None:
                    return number
    return None


def found(planned: Planned) -> list[tuple[str, int, int | None]]:
    """Source, row and token of all rows, in order."""
    order = {source.name: number for number, source in enumerate(planned.summary.sources)}
    columns = ["source", "row", "imei", "iccid"]
    rows = [*planned.plan.select(columns).iter_rows(), *planned.rejects.select(columns).iter_rows()]
    return sorted(
        ((source, row, token_of(imei_cell, iccid_cell)) for source, row, imei_cell, iccid_cell in rows),
        key=lambda found: (order[found[0]], found[1]),
    )


def planned_or_refused(content: bytes) -> Planned | None:
    with tempfile.TemporaryDirectory() as folder, suppress(UsageError):
        return plan_bytes(Path(folder), content, options=OPTIONS)
    return None


def assert_conserved(planned: Planned, *tables: Table) -> None:
    """Each source has the rows of one table, in order, numbered from 1."""
    by_source: dict[str, list[tuple[int, int | None]]] = {
        source.name: [] for source in planned.summary.sources
    }
    for source, row, token in found(planned):
        by_source[source].append((row, token))
    expected = [list(enumerate(table.tokens, start=1)) for table in tables]
    assert list(by_source.values()) == expected


FEW = settings(max_examples=max(1, settings().max_examples // 3))


def table_of(*notes: str) -> Table:
    """Valid rows with notes in the first column."""
    rows = [[note, imei(number), iccid(number)] for number, note in enumerate(notes)]
    return Table([], "IMEI", "ICCID", ["Notes", "IMEI", "ICCID"], rows, [*range(len(notes))])


@FEW
@given(delimited())
@example(
    (
        table_of("é", "a"),
        csv_of(table_of("é", "a").rows, "Notes,IMEI,ICCID").decode().replace("\n", "\x85").encode("latin-1"),
    )
)
@example((table_of("a", "\x1e"), csv_of(table_of("a", "\x1e").rows, "Notes,IMEI,ICCID")))
def test_text_loses_no_row(written: tuple[Table, bytes]) -> None:
    table, content = written
    if planned := planned_or_refused(content):
        assert_conserved(planned, table)


@FEW
@given(in_json())
def test_json_loses_no_row(written: tuple[Table, bytes]) -> None:
    table, content = written
    if planned := planned_or_refused(content):
        assert_conserved(planned, table)


@FEW
@given(workbooks())
def test_workbooks_lose_no_row(written: tuple[Table, bytes]) -> None:
    table, content = written
    if planned := planned_or_refused(content):
        assert_conserved(planned, table)


@FEW
@given(typed())
def test_typed_tables_lose_no_row(written: tuple[Table, bytes]) -> None:
    table, content = written
    if planned := planned_or_refused(content):
        assert_conserved(planned, table)


@FEW
@given(any_format(PLAIN).filter(lambda written: bool(written[0].rows)))
def test_plain_rows_of_any_format_are_not_refused(written: tuple[Table, bytes]) -> None:
    table, content = written
    planned = planned_or_refused(content)
    assert planned is not None
    assert_conserved(planned, table)


# -- archives, joined files and damaged files ------------------------------------------------------------

COMPRESSORS: list[Callable[[bytes], bytes]] = [gzip.compress, zstd.compress, bz2.compress, lzma.compress]


def as_tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def as_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@FEW
@given(st.data())
def test_archives_lose_no_row(data: st.DataObject) -> None:
    written = data.draw(st.lists(any_format(), min_size=1, max_size=3))
    files = {f"north/{number}.dat": content for number, (_, content) in enumerate(written)}
    for name in data.draw(st.sets(st.sampled_from(list(files)))):
        files[name] = data.draw(st.sampled_from(COMPRESSORS))(files[name])
    content = as_tar(files) if data.draw(st.booleans()) else as_zip(files)
    for compress in data.draw(st.lists(st.sampled_from(COMPRESSORS), max_size=2)):
        content = compress(content)
    if planned := planned_or_refused(content):
        assert_conserved(planned, *(table for table, _ in written))


def rows_of(first: int, count: int) -> list[list[str]]:
    return [[imei(number), iccid(number)] for number in range(first, first + count)]


def as_frame(write: Callable[[pl.DataFrame, io.BytesIO], object], rows: list[list[str]]) -> bytes:
    file = io.BytesIO()
    write(pl.DataFrame(rows, schema=["IMEI", "ICCID"], orient="row"), file)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[list[str]]], bytes]] = {
    "csv": csv_of,
    "list": lambda rows: json.dumps([{"imei": row[0], "iccid": row[1]} for row in rows]).encode(),
    "ndjson": lambda rows: b"".join(b'{"imei": "%b"}\n' % row[0].encode() for row in rows),
    "xlsx": lambda rows: as_sheet([["IMEI", "ICCID"], *rows]),
    "xlsb": lambda rows: as_xlsb([["IMEI", "ICCID"], *rows]),
    "xls": lambda rows: as_xls([["IMEI", "ICCID"], *rows]),
    "ods": lambda rows: as_ods([["IMEI", "ICCID"], *rows]),
    "parquet": lambda rows: as_frame(pl.DataFrame.write_parquet, rows),
    "plain parquet": lambda rows: as_frame(
        partial(pl.DataFrame.write_parquet, compression="uncompressed"), rows
    ),
    "arrow": lambda rows: as_frame(pl.DataFrame.write_ipc, rows),
    "arrow stream": lambda rows: as_frame(pl.DataFrame.write_ipc_stream, rows),
    "gzip": lambda rows: gzip.compress(csv_of(rows)),
    "zstd": lambda rows: zstd.compress(csv_of(rows)),
    "bz2": lambda rows: bz2.compress(csv_of(rows)),
    "xz": lambda rows: lzma.compress(csv_of(rows)),
    "tar": lambda rows: as_tar({f"{rows[0][0]}.csv": csv_of(rows)}),
    "zip": lambda rows: as_zip({f"{rows[0][0]}.csv": csv_of(rows)}),
}
BUT_XLS = {name: write for name, write in WRITERS.items() if name != "xls"}
"""The last sectors of a compound file may be out of use, and hold anything."""
FORMAT = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@FORMAT
@pytest.mark.parametrize("counts", [(4, 7), (7, 4), (5, 5), (1, 300), (300, 1)])
def test_files_joined_to_one_lose_no_row(
    write: Callable[[list[list[str]]], bytes], counts: tuple[int, int]
) -> None:
    first, second = counts
    content = write(rows_of(0, first)) + write(rows_of(first, second))
    if planned := planned_or_refused(content):
        assert [token for *_, token in found(planned)] == list(range(first + second))


@pytest.mark.parametrize("write", BUT_XLS.values(), ids=BUT_XLS)
@pytest.mark.parametrize(
    "junk", [csv_of(rows_of(4, 3), "IMEI,ICCID"), b'{"error": "timeout"}', b"504 Gateway"]
)
def test_text_after_a_file_is_read_or_refused(write: Callable[[list[list[str]]], bytes], junk: bytes) -> None:
    if planned := planned_or_refused(write(rows_of(0, 4)) + junk):
        assert planned.summary.rows_read > 4
        assert [token for *_, token in found(planned)][:4] == [0, 1, 2, 3]


@FORMAT
def test_a_file_that_is_cut_off_loses_no_row_in_silence(write: Callable[[list[list[str]]], bytes]) -> None:
    content = write(rows_of(0, 200))
    if content[:20].isascii() and content.startswith((b"IMEI", b'{"imei"')):
        return  # the last line of text is a row, however short
    for cut in range(1, len(content), 1 + len(content) // 40):
        if planned := planned_or_refused(content[:cut]):
            assert planned.summary.rows_read == 200


def objects_in(text: str) -> int | None:
    """The number of objects in a text of JSON values, and in its lists; None if it is no JSON."""
    count, at = 0, 0
    decoder = json.JSONDecoder()
    while (at := re.compile(r"[ \t\r\n\x1e]*").match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            return None
        count += len(value) if isinstance(value, list) else 1
    return count


@st.composite
def changed(draw: st.DrawFn, content: bytes, start: int) -> bytes:
    """The content with bytes changed, removed, repeated or inserted after the first `start` bytes."""
    content = bytes(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(start, len(content)))
        end = draw(st.integers(at, min(len(content), at + 40)))
        change = draw(st.sampled_from(["cut", "flip", "repeat", "insert", "remove"]))
        block = content[at:end]
        match change:
            case "cut":
                content = content[:at]
            case "flip":
                content = content[:at] + bytes(byte ^ 1 << (byte % 7) for byte in block) + content[end:]
            case "repeat":
                content = content[:end] + block + content[end:]
            case "insert":
                text = draw(
                    st.sampled_from(["\n", '"', ",", "{", "}", "[]", "[", "]", "error\n", "x1x", "\0", "\r"])
                )
                content = content[:at] + text.encode() + content[at:]
            case _:
                content = content[:at] + content[end:]
    return content


@FEW
@given(st.data())
def test_damaged_json_has_all_rows_that_another_reader_finds(data: st.DataObject) -> None:
    rows = [
        {"imei": row[0], "iccid": row[1], "n": {"a": [1]}} for row in rows_of(0, data.draw(st.integers(1, 8)))
    ]
    form = data.draw(st.sampled_from(["list", "lines", "pretty", "pages"]))
    text = {
        "list": json.dumps(rows),
        "lines": "".join(json.dumps(row) + "\n" for row in rows),
        "pretty": json.dumps(rows, indent=1),
        "pages": json.dumps(rows[:3]) + "\n" + json.dumps(rows[3:]),
    }[form]
    content = data.draw(changed(text.encode(), 3))
    expected = objects_in(content.decode("utf-8", "replace"))
    planned = planned_or_refused(content)
    if planned:
        assert expected is not None
        assert planned.summary.rows_read == expected


@FEW
@given(st.data())
def test_damaged_csv_has_all_rows_that_another_reader_finds(data: st.DataObject) -> None:
    rows = [[*row, "a b"] for row in rows_of(0, data.draw(st.integers(1, 8)))]
    header = b"IMEI,ICCID,Notes\n"
    content = data.draw(changed(csv_of(rows, "IMEI,ICCID,Notes"), len(header)))
    text = re.sub(r"\r+\n|\r", "\n", content.decode("utf-8", "replace"))
    records = [record for record in csv.reader(io.StringIO(text, newline="")) if "".join(record).strip()]
    if planned := planned_or_refused(content):
        assert planned.summary.rows_read >= len(records) - 1


@pytest.mark.parametrize("place", [0, 100, 148, 156])
def test_a_tar_archive_with_a_damaged_header_is_refused(place: int) -> None:
    content = bytearray(as_tar({f"{number}.csv": csv_of(rows_of(number, 1)) for number in range(3)}))
    content[1024 + place] ^= 0x15  # in the header of the second file
    assert planned_or_refused(bytes(content)) is None


def test_a_tar_archive_without_its_end_is_refused() -> None:
    content = as_tar({"a.csv": csv_of(rows_of(0, 1)), "b.csv": csv_of(rows_of(1, 1))})
    assert planned_or_refused(content[:2048]) is None
    assert planned_or_refused(content[:1024]) is None
    assert planned_or_refused(content) is not None

"""Writes small workbooks in XLSB and XLS, record by record (MS-XLSB, MS-XLS, MS-CFB)."""

import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

ERROR_CODES = {"#NULL!": 0, "#DIV/0!": 7, "#VALUE!": 15, "#REF!": 23, "#NAME?": 29, "#NUM!": 36, "#N/A": 42}


@dataclass(frozen=True)
class Error:
    """A cell with an error: a constant, or the result of a formula."""

    text: str
    is_formula: bool = False


@dataclass(frozen=True)
class Date:
    """A number that is formatted as a date."""

    number: float


@dataclass(frozen=True)
class Rich:
    """Text with its own fonts, stored in the cell."""

    text: str


@dataclass(frozen=True)
class Short:
    """A cell whose record has no column: text, a number, an error, or an empty cell (None)."""

    value: str | float | Error | None


Cell: TypeAlias = str | float | Error | Date | Rich | Short | None
Writer: TypeAlias = Callable[[Sequence[Sequence[Cell]]], bytes]


# -- XLSB -----------------------------------------------------------------------------------------------


def record(kind: int, body: bytes = b"") -> bytes:
    head = bytes([kind]) if kind < 0x80 else bytes([kind & 0x7F | 0x80, kind >> 7])
    size = len(body)
    while size > 0x7F:
        head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
    return head + bytes([size]) + body


def wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def xlsb_cell(column: int, cell: Cell) -> bytes:
    place = struct.pack("<II", column, isinstance(cell, Date))
    if isinstance(cell, Short):
        kind, value = xlsb_value(cell.value)
        return record({1: 12, 3: 14, 5: 16, 6: 17}[kind], bytes(4) + value)
    kind, value = xlsb_value(cell)
    return record(kind, place + value)


def xlsb_value(cell: Cell) -> tuple[int, bytes]:
    """The kind of a cell's record, and the value in it."""
    match cell:
        case None | Short():
            return 1, b""
        case str():
            return 6, wide(cell)
        case Rich(text):
            return 62, b"\1" + wide(text) + struct.pack("<IHH", 1, 0, 0)
        case Error(text, is_formula):
            code = bytes([ERROR_CODES[text]])
            return (11, code + bytes(10)) if is_formula else (3, code)
        case Date(number):
            return 5, struct.pack("<d", number)
    return 5, struct.pack("<d", cell)


def as_xlsb(rows: Sequence[Sequence[Cell]]) -> bytes:
    """One sheet as XLSB. Its second cell format is that of dates."""
    width = max(map(len, rows))
    data = b"".join(
        record(0, struct.pack("<IIHBBBIII", number, 0, 300, 0, 0, 0, 1, 0, width - 1))
        + b"".join(xlsb_cell(column, cell) for column, cell in enumerate(row))
        for number, row in enumerate(rows)
    )
    size = record(148, struct.pack("<4I", 0, len(rows) - 1, 0, width - 1))
    sheet = record(129) + size + record(145) + data + record(146) + record(130)
    bundle = struct.pack("<II", 0, 1) + wide("rId1") + wide("Fleet")
    book = record(131) + record(143) + record(156, bundle) + record(144) + record(132)
    formats = b"".join(record(47, struct.pack("<HH12x", 0xFFFF, number)) for number in (0, 14))
    styles = record(278) + record(617, struct.pack("<I", 2)) + formats + record(618) + record(279)
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"
    links = f'<Relationships xmlns="{packages}/relationships"><Relationship Id="rId1" Type="{office}/'
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{packages}/content-types">'
            '<Default Extension="bin" ContentType="application/vnd.ms-excel.sheet.binary.macroEnabled.main"/>'
            '<Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        )
        archive.writestr("_rels/.rels", f'{links}officeDocument" Target="xl/workbook.bin"/></Relationships>')
        archive.writestr("xl/workbook.bin", book)
        archive.writestr(
            "xl/_rels/workbook.bin.rels",
            f'{links}worksheet" Target="worksheets/sheet1.bin"/></Relationships>',
        )
        archive.writestr("xl/worksheets/sheet1.bin", sheet)
        archive.writestr("xl/styles.bin", styles)
    return packed.getvalue()


# -- XLS ------------------------------------------------------------------------------------------------


def biff(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<HH", kind, len(body)) + body


def xls_cell(row: int, column: int, cell: Cell) -> bytes:
    place = struct.pack("<HHH", row, column, isinstance(cell, Date))
    match cell:
        case None:
            return biff(0x0201, place)
        case str():
            return biff(0x0204, place + struct.pack("<HB", len(cell), 1) + cell.encode("utf-16-le"))
        case Error(text, False):
            return biff(0x0205, place + bytes([ERROR_CODES[text], 1]))
        case Error(text):
            value = struct.pack("<BBBBBBH", 2, 0, ERROR_CODES[text], 0, 0, 0, 0xFFFF)
            return biff(0x0006, place + value + struct.pack("<HIHBB", 0, 0, 2, 0x1C, 0x17))
        case Date(number):
            return biff(0x0203, place + struct.pack("<d", number))
        case int() | float():
            return biff(0x0203, place + struct.pack("<d", cell))
    raise NotImplementedError(cell)


def as_xls(rows: Sequence[Sequence[Cell]], merged: bytes = b"", hidden: Sequence[int] = ()) -> bytes:
    """One sheet as XLS (BIFF8) after one with an error. Its second cell format is that of dates.

    `merged`: the body of the record of merged cells. `hidden`: the numbers of hidden rows, from 0.
    """
    hidden_rows = b"".join(biff(0x0208, struct.pack("<6HI", row, 0, 9, 0, 0, 0, 0x120)) for row in hidden)
    formats = b"".join(biff(0x00E0, struct.pack("<HH16x", 0, number)) for number in (0, 14))
    sheets = [
        biff(0x0809, struct.pack("<HHHHII", 0x0600, 0x0010, 0, 0, 0, 0))
        + biff(0x0200, struct.pack("<IIHHH", 0, len(cells), 0, max(map(len, cells)), 0))
        + b"".join(
            xls_cell(row, column, cell) for row, line in enumerate(cells) for column, cell in enumerate(line)
        )
        + (biff(0x00E5, merged) if merged and cells is rows else b"")
        + (hidden_rows if cells is rows else b"")
        + biff(0x000A)
        for cells in (rows, [[Error("#REF!")]])
    ]
    start = biff(0x0809, struct.pack("<HHHHII", 0x0600, 0x0005, 0, 0, 0, 0)) + formats
    book = start
    place = len(start) + 2 * (4 + 8 + 5) + 4
    for name, sheet in zip((b"Fleet", b"Other"), sheets, strict=True):
        book += biff(0x0085, struct.pack("<IBBBB", place, 0, 0, 5, 0) + name)
        place += len(sheet)
    return compound_file(book + biff(0x000A) + b"".join(sheets))


def compound_file(stream: bytes) -> bytes:
    """A compound file with sectors of 512 bytes. Its stream is in small sectors if it is below 4096 bytes."""
    is_small = len(stream) < 4096
    content = stream.ljust(-(-len(stream) // 512) * 512, b"\0")
    count = len(content) // 512
    fats = -(-(count + 40) // 128)
    minis = 1 if is_small else 0
    first = fats + 1 + minis
    chains = [0xFFFFFFFD] * fats + [0xFFFFFFFE] * (1 + minis) + [*range(first + 1, first + count), 0xFFFFFFFE]
    table = struct.pack(f"<{len(chains)}I", *chains).ljust(fats * 512, b"\xff")
    mini_table = struct.pack(f"<{count * 8}I", *range(1, count * 8), 0xFFFFFFFE).ljust(512, b"\xff")

    def entry(name: str, kind: int, child: int, start: int, size: int) -> bytes:
        text = name.encode("utf-16-le")
        head = struct.pack("<64sHBB3I36x", text, len(text) + 2, kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child)
        return head + struct.pack("<IQ", start, size)

    root = entry("Root Entry", 5, 1, first if is_small else 0xFFFFFFFE, len(content) if is_small else 0)
    entries = (root + entry("Workbook", 2, 0xFFFFFFFF, 0 if is_small else first, len(stream))).ljust(
        512, b"\0"
    )
    header = struct.pack("<Q16xHHHHH6x", 0xE11AB1A1E011CFD0, 0x3E, 3, 0xFFFE, 9, 6)
    mini_start = fats + 1 if is_small else 0xFFFFFFFE
    header += struct.pack("<9I", 0, fats, fats, 0, 4096, mini_start, minis, 0xFFFFFFFE, 0)
    header += struct.pack(f"<{fats}I", *range(fats)).ljust(436, b"\xff")
    return header + table + entries + (mini_table if is_small else b"") + content

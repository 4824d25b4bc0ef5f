"""Rewrites the records of XLSB (MS-XLSB) for calamine, which passes over some kinds of cells.

Cells with errors, rich text, and cells without a column number (the next column is meant) become cells that
calamine reads. Formats become the general one, so that no number is taken for a date.
"""

import re
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from batchlic.reader.formats.workbooks.tables import MAX_ROWS, Table
from batchlic.reader.formats.workbooks.xml_parts import NOT_DATES, PIECE_BYTES, Rewrite, linked_parts

ERRORS = {
    0x00: "#NULL!",
    0x07: "#DIV/0!",
    0x0F: "#VALUE!",
    0x17: "#REF!",
    0x1D: "#NAME?",
    0x24: "#NUM!",
    0x2A: "#N/A",
    0x2B: "#GETTING_DATA",
}
"""The errors of cells by their codes (MS-XLSB 2.5.97.2; MS-XLS has the same)."""

_SHEET = re.compile(r"/?xl[/\\]worksheets[/\\][^/\\]*\.bin", re.IGNORECASE)
_STYLES = re.compile(r"/?xl[/\\]styles\.bin", re.IGNORECASE)

_ROW, _RK, _ERROR, _BOOL, _REAL, _TEXT, _SHARED_TEXT, _FORMULA_ERROR = 0, 2, 3, 4, 5, 6, 7, 11
_RICH_TEXT, _CELLS, _END_OF_CELLS = 62, 145, 146
_SHEET_START, _SHEET_END, _SIZE, _MERGED = 129, 130, 148, 176
_BOOK, _BOOK_LINKS = "xl/workbook.bin", "xl/_rels/workbook.bin.rels"
_BOOK_SHEET = 156
_SHORT = {13: _RK, 14: _ERROR, 15: _BOOL, 16: _REAL, 17: _TEXT, 18: _SHARED_TEXT}
"""Cells without a column number, and the same cells with one. 12 is an empty cell."""
_BLANK, _SHORT_BLANK = 1, 12
_MAX_CELL = 18
_FORMAT = 47
"""BrtXF: which number format the cells of one style have."""

_PLAIN = re.compile(
    rb"((\x00\x19.{11}S.{13}|\x00\x21.{11}S.{21})"
    rb"|(?:\x01\x08(?=C).{8}|\x02\x0c(?=C).{12}|\x05\x10(?=C).{16}|\x07\x0c(?=C).{12}))+".replace(
        b"C", rb"[\x00-\x1f]\x00\x00\x00"
    ).replace(b"S", rb"[\x00-\x0f\x20-\x2f\x40-\x4f\x60-\x6f\x80-\x8f\xa0-\xaf\xc0-\xcf\xe0-\xef]"),
    re.DOTALL,
)
"""Rows that are shown, and cells of one size in the first columns that stay as they are: nearly all of most
sheets."""
_PLAIN_COLUMNS = 32
_FLAGS, _HIDDEN = 11, 0x10
"""Where a row has its flags, and the one of hidden rows (fDyZero)."""


def rewrite_of(part: str) -> Rewrite | None:
    """How a part is rewritten; None if it is not."""
    if _SHEET.fullmatch(part):
        return _with_all_cells
    return _without_dates if _STYLES.fullmatch(part) else None


class _Record(NamedTuple):
    """A record: where it starts in a text, where its body starts, and where it ends."""

    kind: int
    start: int
    body: int
    end: int


def _record(text: bytes, start: int) -> _Record | None:
    """The record at `start`; None if it is not whole."""
    try:
        kind, at = text[start], start + 1
        if kind & 0x80:
            kind, at = (kind & 0x7F) | (text[at] & 0x7F) << 7, at + 1
        size = 0
        for shift in (0, 7, 14, 21):
            byte, at = text[at], at + 1
            size |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
    except IndexError:
        return None
    return _Record(kind, start, at, at + size) if at + size <= len(text) else None


def _with_all_cells(content: IO[bytes], table: Table) -> Iterator[tuple[bytes, bytes]]:
    column, row, rest, in_cells = -1, 0, b"", False
    while chunk := content.read(PIECE_BYTES):
        piece, at = rest + chunk, 0
        kept, changed = 0, [b""]
        while True:
            if run := _PLAIN.match(piece, at):
                last, last_row = run.start(1), run.start(2)
                column = -1 if piece[last] == _ROW else struct.unpack_from("<I", piece, last + 2)[0]
                row = row if last_row < 0 else struct.unpack_from("<I", piece, last_row + 2)[0]
                table.extent.add(min(row + 1, MAX_ROWS), _PLAIN_COLUMNS)
                at = run.end()
            if (record := _record(piece, at)) is None:
                break
            in_cells = record.kind == _CELLS or (in_cells and record.kind != _END_OF_CELLS)
            if in_cells and (record.kind <= _MAX_CELL or record.kind == _RICH_TEXT):
                body = piece[record.body : record.end]
                row = _added_row(body, table) if record.kind == _ROW else row
                column, cell = _rewritten_cell(record.kind, body, column)
                if record.kind not in {_ROW, _BLANK, _SHORT_BLANK}:
                    table.extent.add(min(row + 1, MAX_ROWS), column + 1)
                if cell is not None:
                    changed += piece[kept : record.start], cell
                    kept = record.end
            elif record.kind == _MERGED:
                top, bottom, left, right = struct.unpack_from("<4I", piece, record.body)
                table.merged.append(((top, left), (bottom, right)))
            at = record.end
        yield piece[:at], b"".join(changed) + piece[kept:at]
        rest = piece[at:]
    yield rest, rest


def _added_row(body: bytes, table: Table) -> int:
    """The number of a row, which is added to the hidden ones if it is hidden."""
    row = int(struct.unpack_from("<I", body)[0])
    if body[_FLAGS] & _HIDDEN:
        table.hidden.add(row)
    return row


def _rewritten_cell(kind: int, body: bytes, column: int) -> tuple[int, bytes | None]:
    """The column of a cell, and the record in its place; None if it stays. `column` is the one before."""
    if kind == _ROW:
        return -1, None
    is_short = kind == _SHORT_BLANK or kind in _SHORT
    column = column + 1 if is_short else struct.unpack_from("<I", body)[0]
    cell, value = (struct.pack("<I", column) + body[:4], body[4:]) if is_short else (body[:8], body[8:])
    long_kind = _SHORT.get(kind, kind)
    if kind == _SHORT_BLANK:
        return column, b""
    if long_kind in {_ERROR, _FORMULA_ERROR}:
        text = ERRORS.get(value[0], "#ERROR")
        return column, _packed(_TEXT, cell + struct.pack("<I", len(text)) + text.encode("utf-16-le"))
    if kind == _RICH_TEXT:
        characters = struct.unpack_from("<I", value, 1)[0]
        return column, _packed(_TEXT, cell + value[1 : 5 + 2 * characters])
    return column, _packed(long_kind, cell + value) if is_short else None


def _packed(kind: int, body: bytes) -> bytes:
    size, left = b"", len(body)
    while left > 0x7F:
        size, left = size + bytes([left & 0x7F | 0x80]), left >> 7
    long = bytes([kind]) if kind < 0x80 else bytes([kind & 0x7F | 0x80, kind >> 7])
    return long + size + bytes([left]) + body


def sheet_names(book: zipfile.ZipFile) -> dict[str, str]:
    """The names of the sheets by their parts; empty if the workbook is no XLSB, or has odd parts."""
    if not {_BOOK, _BOOK_LINKS} <= set(book.namelist()):
        return {}
    parts = linked_parts(book, _BOOK_LINKS)
    content, at = book.read(_BOOK), 0
    names: dict[str, str] = {}
    while record := _record(content, at):
        if record.kind == _BOOK_SHEET:
            link, end = _text(content, record.body + 8)
            names[parts.get(link, "")] = _text(content, end)[0]
        at = record.end
    return names


def _text(content: bytes, at: int) -> tuple[str, int]:
    """A text and its end."""
    end = at + 4 + 2 * int(struct.unpack_from("<I", content, at)[0])
    return content[at + 4 : end].decode("utf-16-le", "replace"), end


def sheet_of_one_cell(text: str) -> bytes:
    """The records of a sheet with one cell."""
    row = struct.pack("<IIHBBBI", 0, 0, 300, 0, 0, 0, 0)
    cell = struct.pack("<III", 0, 0, len(text)) + text.encode("utf-16-le")
    size = struct.pack("<4I", 0, 0, 0, 0)
    records = (
        (_SHEET_START, b""),
        (_SIZE, size),
        (_CELLS, b""),
        (_ROW, row),
        (_TEXT, cell),
        (_END_OF_CELLS, b""),
        (_SHEET_END, b""),
    )
    return b"".join(_packed(kind, body) for kind, body in records)


def _without_dates(content: IO[bytes], _: Table) -> Iterator[tuple[bytes, bytes]]:
    styles = content.read()
    plain, at = bytearray(styles), 0
    while record := _record(styles, at):
        if record.kind == _FORMAT and struct.unpack_from("<H", styles, record.body + 2)[0] not in NOT_DATES:
            struct.pack_into("<H", plain, record.body + 2, 0)
        at = record.end
    yield styles, bytes(plain)

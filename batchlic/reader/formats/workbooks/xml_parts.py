"""Rewrites the XML of workbooks (XLSX, ODS) for calamine, piece by piece."""

import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from typing import IO, TypeAlias
from xml.sax.saxutils import escape

from batchlic.reader.formats.workbooks.tables import MAX_ROWS, Extent, Table, column_number
from batchlic.reader.inventory import NO_VALUE

PIECE_BYTES = 1 << 20
MAX_PIECE_BYTES = 32 << 20
"""Of a part, or a row, that has no start of a row in it."""

Rewrite: TypeAlias = Callable[[IO[bytes], Table], Iterator[tuple[bytes, bytes]]]
"""Yields each piece of a part, before and after, and adds what is found to the table."""
ODS_CONTENT = "content.xml"
_SHEET = re.compile(r"/?xl[/\\]worksheets[/\\][^/\\]*\.xml", re.IGNORECASE)
_STYLES = re.compile(r"/?xl[/\\]styles\.xml", re.IGNORECASE)


def rewrite_of(part: str) -> Rewrite | None:
    """How a part is rewritten; None if it is not."""
    if _SHEET.fullmatch(part):
        return _rewritten_sheet
    if _STYLES.fullmatch(part):
        return partial(_rewritten, _without_dates)
    return partial(_rewritten, _without_space) if part == ODS_CONTENT else None


def _rewritten(
    change: Callable[[bytes], bytes], content: IO[bytes], _: Table
) -> Iterator[tuple[bytes, bytes]]:
    for piece in pieces(content):
        yield piece, change(_plain_text(piece))


def _rewritten_sheet(content: IO[bytes], table: Table) -> Iterator[tuple[bytes, bytes]]:
    row = 0
    for piece in pieces(content):
        is_usual = _is_usual(piece)
        if b"hidden" in piece:
            table.hidden.update(int(number) - 1 for number in _HIDDEN_ROW.findall(piece))
        row = _add_bounds(piece, table.extent, row, is_usual=is_usual)
        yield piece, _with_errors_and_formulas(_plain_text(piece), is_usual=is_usual)


_ROWS = (b"<row", b"<table:table-row", b":row")
"""How the start tag of a row contains its name: XLSX, ODS, XLSX with a prefix."""


def pieces(content: IO[bytes]) -> Iterator[bytes]:
    """XML in pieces that end before the start of a row, so that no cell is cut."""
    rest = b""
    while chunk := content.read(PIECE_BYTES):
        piece = rest + chunk
        cut = next((piece.rfind(b"<", 0, at + 1) for row in _ROWS if (at := piece.rfind(row)) > 0), 0)
        if cut or len(piece) > MAX_PIECE_BYTES:
            yield piece[:cut] if cut else piece
            rest = piece[cut:] if cut else b""
        else:
            rest = piece
    yield rest


_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_CDATA = re.compile(rb"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)


def _plain_text(piece: bytes) -> bytes:
    """XML without comments and CDATA sections, of which calamine loses the text, or the text around."""
    if b"!" not in piece or b"<!" not in piece:  # one byte is found much faster than more
        return piece
    piece = _COMMENT.sub(b"", piece)
    return _CDATA.sub(lambda section: escape(section[1].decode("utf-8", "replace")).encode(), piece)


_LINK = re.compile(r"<Relationship\s[^<>]*>")
_LINK_ATTRIBUTE = re.compile(r"""\b(Id|Target)\s*=\s*["']([^"']*)["']""")


def linked_parts(book: zipfile.ZipFile, links: str) -> dict[str, str]:
    """The parts of a workbook by the ids of the links to them."""
    found = (
        dict(_LINK_ATTRIBUTE.findall(link))
        for link in _LINK.findall(book.read(links).decode("utf-8", "replace"))
    )
    return {link.get("Id", ""): posixpath.join("/xl", link.get("Target", "")).lstrip("/") for link in found}


# -- XLSX -----------------------------------------------------------------------------------------------

_COLUMN = re.compile(rb"""\br\s*=\s*["']([A-Z]{2,3})\d""")
"""The column of a cell after the first 26."""
_NARROW = 26
LOOKED_AT = 1 << 16
_ROW_START = re.compile(rb"""<(?:\w+:)?row\b(?:[^<>]*?\sr\s*=\s*["'](\d{1,9})["'])?""")
_HIDDEN_ROW = re.compile(
    rb"""<(?:\w+:)?row\b(?=[^<>]*\shidden\s*=\s*["'](?:1|true)["'])[^<>]*?\sr\s*=\s*["'](\d{1,9})["']"""
)
_CELL_WITH_VALUE = re.compile(
    rb"""<(?:\w+:)?c\b[^<>]*?\sr\s*=\s*["']([A-Z]{1,3})(\d{1,9})["'][^<>]*(?<!/)>\s*<"""
)


_BOOK, _BOOK_LINKS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
_BOOK_SHEET = re.compile(r"<(?:\w+:)?sheet\s[^<>]*>")
_SHEET_ATTRIBUTE = re.compile(r"""\s(name|\w+:id)\s*=\s*(?:"([^"]*)"|'([^']*)')""")


def sheet_names(book: zipfile.ZipFile) -> dict[str, str]:
    """The names of the sheets by their parts; empty if the workbook is no XLSX, or has odd parts."""
    if not {_BOOK, _BOOK_LINKS} <= set(book.namelist()):
        return {}
    parts = linked_parts(book, _BOOK_LINKS)
    names: dict[str, str] = {}
    for sheet in _BOOK_SHEET.findall(book.read(_BOOK).decode("utf-8", "replace")):
        found = {
            "name" if key == "name" else "id": unescape(one or other)
            for key, one, other in _SHEET_ATTRIBUTE.findall(sheet)
        }
        names[parts.get(found.get("id", ""), "")] = found.get("name", "")
    return names


def _is_usual(sheet: bytes) -> bool:
    """Whether attributes are written as `name="value"`, so that they are quickly found.

    A program writes all of them alike, so that the first ones show it.
    """
    start = sheet[:LOOKED_AT]
    if start.count(b"=") != start.count(b'="') or b' ="' in start:
        return False
    return not (any(space in start for space in (b"\n", b"\r", b"\t")) and re.search(rb"\s=", start))


def _add_bounds(sheet: bytes, extent: Extent, rows_before: int, *, is_usual: bool) -> int:
    """Add upper bounds of the rows and columns in a piece to the extent; returns the number of its last row.

    The bounds include empty cells, and they are cheap to find: most sheets have few columns.
    """
    columns = _NARROW
    if not is_usual or re.search(b'r="[A-Z]{2}', sheet):
        columns = max(map(column_number, set(_COLUMN.findall(sheet))), default=_NARROW)
    last = sheet.rfind(b"<row")
    if last < 0:
        last = sheet.rfind(b"<", 0, max(0, sheet.rfind(b":row")))
    row = _ROW_START.match(sheet, last) if last >= 0 else None
    number = int(row[1]) if row and row[1] else rows_before + (sheet.count(b"<row") or sheet.count(b":row"))
    extent.add(number, columns)
    return number


def exact_extent(content: IO[bytes]) -> Extent:
    """The extent of the cells of a sheet that are not empty."""
    extent = Extent()
    for piece in pieces(content):
        for letters, row in _CELL_WITH_VALUE.findall(piece):
            extent.add(min(int(row), MAX_ROWS), column_number(letters))
    return extent


def sheet_of_one_cell(text: str) -> bytes:
    """The XML of a sheet with one cell."""
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    cell = f'<c r="A1" t="str"><v>{escape(text)}</v></c>'
    return f'<worksheet xmlns="{space}"><sheetData><row r="1">{cell}</row></sheetData></worksheet>'.encode()


_ERROR_TYPE = re.compile(rb"""\st\s*=\s*["']e["']""")
_FORMULA = re.compile(rb"<f[ />]")
_FORMULA_WITH_PREFIX = re.compile(rb"<\w+:f[ />]")
_CELL_WITHOUT_VALUE = re.compile(
    rb"<((?:\w+:)?)c\b([^<>]*)>\s*"
    rb"<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>([^<]*)</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*"
    rb"</(?:\w+:)?c>"
)
"""A cell with a formula and no value."""
_TYPE = re.compile(rb"""\st\s*=\s*["'](\w*)["']""")
_FORMAT = re.compile(rb"""numFmtId\s*=\s*["'](\d+)["']""")
_FORMATS = re.compile(rb"<(\w+:)?numFmts\b.*?</(\w+:)?numFmts>", re.DOTALL)
NOT_DATES = {*range(14), *range(37, 45), 48, 49}
"""Number formats that show no date (ECMA-376 part 1, 18.8.30)."""


def _with_errors_and_formulas(sheet: bytes, *, is_usual: bool) -> bytes:
    # Most sheets have their texts elsewhere, and so neither e nor f. One byte is found much faster than more.
    if not is_usual or (b"e" in sheet and b't="e"' in sheet):
        sheet = _ERROR_TYPE.sub(_as_text_type, sheet)
    if b"f" not in sheet:
        return sheet
    formulas = (_FORMULA if b"</row>" in sheet else _FORMULA_WITH_PREFIX).finditer(sheet)
    pieces: list[bytes] = []
    end = 0
    for formula in formulas:
        start = sheet.rfind(b"<", 0, formula.start())
        if start >= end and (cell := _CELL_WITHOUT_VALUE.match(sheet, start)):
            pieces += sheet[end:start], _with_formula_as_text(cell)
            end = cell.end()
    return b"".join([*pieces, sheet[end:]]) if pieces else sheet


def _as_text_type(error: re.Match[bytes]) -> bytes:
    """The type of an error as the type of text; `error` itself if it is not in a tag."""
    start = error.start()
    in_tag = error.string.rfind(b"<", 0, start) > error.string.rfind(b">", 0, start)
    return b' t="str"' if in_tag else error[0]


def _with_formula_as_text(cell: re.Match[bytes]) -> bytes:
    prefix, attributes, formula = cell.groups(b"")
    declared = _TYPE.search(attributes)
    if declared and declared[1] == b"str":  # the value is the empty text
        return cell[0]
    attributes = _TYPE.sub(b"", attributes)
    text = NO_VALUE.encode() + b" =" + formula
    return b'<%bc%b t="str"><%bv>%b</%bv></%bc>' % (prefix, attributes, prefix, text, prefix, prefix)


def _without_dates(styles: bytes) -> bytes:
    if all(int(number) in NOT_DATES for number in _FORMAT.findall(styles)):
        return styles
    return _FORMAT.sub(b'numFmtId="0"', _FORMATS.sub(b"", styles))


# -- ODS ------------------------------------------------------------------------------------------------

_SPACE = re.compile(rb">\s+(?=</?table:)")
_ERROR_TEXT = re.compile(
    rb"""(<table:table-cell\b[^<>]*?)\soffice:string-value\s*=\s*(?:""|'')([^<>]*>\s*<text:p>(?:#|Err:\d))"""
)
"""LibreOffice stores an error as an empty string that is shown as `#REF!` or `Err:508`."""


def _without_space(content: bytes) -> bytes:
    return _ERROR_TEXT.sub(rb"\1\2", _SPACE.sub(b">", content))

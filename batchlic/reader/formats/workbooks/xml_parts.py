"""Rewrites the XML of workbooks (XLSX, ODS) for calamine, piece by piece."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TypeAlias

from batchlic.reader.inventory import NO_VALUE

PIECE_BYTES = 1 << 20
MAX_PIECE_BYTES = 32 << 20
"""Of a part, or a row, that has no start of a row in it."""

Rewrite: TypeAlias = Callable[[IO[bytes]], Iterator[tuple[bytes, bytes]]]
"""Yields each piece of a part, before and after."""
_SHEET = re.compile(r"/?xl[/\\]worksheets[/\\][^/\\]*\.xml", re.IGNORECASE)
_STYLES = re.compile(r"/?xl[/\\]styles\.xml", re.IGNORECASE)


def rewrite_of(part: str) -> Rewrite | None:
    """How a part is rewritten; None if it is not."""
    if _SHEET.fullmatch(part):
        return partial(_rewritten, _with_errors_and_formulas)
    if _STYLES.fullmatch(part):
        return partial(_rewritten, _without_dates)
    return partial(_rewritten, _without_space) if part == "content.xml" else None


def _rewritten(change: Callable[[bytes], bytes], content: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for piece in _pieces(content):
        yield piece, change(piece)


_ROWS = (b"<row", b"-row", b":row")
"""How the start tag of a row contains its name: XLSX, ODS, XLSX with a prefix."""


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    """XML in pieces that end before the start of a row, so that no cell is cut."""
    rest = b""
    while chunk := content.read(PIECE_BYTES):
        piece = rest + chunk
        cut = next((at for row in _ROWS if (at := piece.rfind(row)) > 0), 0)
        if cut or len(piece) > MAX_PIECE_BYTES:
            yield piece[:cut] if cut else piece
            rest = piece[cut:] if cut else b""
        else:
            rest = piece
    yield rest


# -- XLSX -----------------------------------------------------------------------------------------------

_ERROR_TYPE = re.compile(rb"""\st=["']e["']""")
_FORMULA = re.compile(rb"<f[ />]")
_FORMULA_WITH_PREFIX = re.compile(rb"<\w+:f[ />]")
_CELL_WITHOUT_VALUE = re.compile(
    rb"<((?:\w+:)?)c\b([^<>]*)>\s*"
    rb"<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>([^<]*)</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*"
    rb"</(?:\w+:)?c>"
)
"""A cell with a formula and no value."""
_TYPE = re.compile(rb"""\st=["'](\w*)["']""")
_FORMAT = re.compile(rb"""numFmtId=["'](\d+)["']""")
_FORMATS = re.compile(rb"<(\w+:)?numFmts\b.*?</(\w+:)?numFmts>", re.DOTALL)
NOT_DATES = {*range(14), *range(37, 45), 48, 49}
"""Number formats that show no date (ECMA-376 part 1, 18.8.30)."""


def _with_errors_and_formulas(sheet: bytes) -> bytes:
    if (b't="e"' if b'="' in sheet else b"t='e'") in sheet:
        sheet = _ERROR_TYPE.sub(_as_text_type, sheet)
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
_ERROR_TEXT = re.compile(rb"""(<table:table-cell\b[^<>]*?)\soffice:string-value=""([^<>]*>\s*<text:p>#)""")
"""LibreOffice stores an error as an empty string that is shown as `#REF!`."""


def _without_space(content: bytes) -> bytes:
    return _ERROR_TEXT.sub(rb"\1\2", _SPACE.sub(b">", content))

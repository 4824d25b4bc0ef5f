"""Rewrites the XML of a workbook so that calamine returns each cell as it is stored.

calamine turns numbers that are formatted as dates into dates, and fails for large ones. It returns cells with
errors, and formulas without a stored value, as empty. It refuses white space between the cells of ODS.
"""

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TypeAlias

NO_VALUE = "#FORMULA"
"""Begins the text of a formula whose value the workbook does not have."""

PIECE_BYTES = 16 << 20


def plain_copy(file: Path | IO[bytes], files: ExitStack) -> IO[bytes]:
    """The workbook itself if nothing has to be rewritten, or else a rewritten copy; closed by `files`."""
    original = files.enter_context(file.open("rb")) if isinstance(file, Path) else file
    copy = original
    if zipfile.is_zipfile(original):
        with zipfile.ZipFile(original) as book:
            rewrites = {
                part: rewrite
                for part in book.namelist()
                if (rewrite := _rewrite_of(part)) and _applies(book, part)
            }
            if rewrites:
                copy = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
                _write_copy(book, copy, rewrites)
    copy.seek(0)
    return copy


_Rewrite: TypeAlias = Callable[[bytes], bytes]
_SHEET = re.compile(r"/?xl[/\\]worksheets[/\\][^/\\]*\.xml", re.IGNORECASE)
_STYLES = re.compile(r"/?xl[/\\]styles\.xml", re.IGNORECASE)


def _rewrite_of(part: str) -> _Rewrite | None:
    """How a part is rewritten, piece by piece; None if it is not."""
    if _SHEET.fullmatch(part):
        return _with_errors_and_formulas
    if _STYLES.fullmatch(part):
        return _without_dates
    return _without_space if part == "content.xml" else None


def _applies(book: zipfile.ZipFile, part: str) -> bool:
    """Whether rewriting changes anything. Most workbooks are read as they are."""
    rewrite = _rewrite_of(part)
    with book.open(part) as content:
        return rewrite is not None and any(rewrite(piece) != piece for piece in _pieces(content))


def _write_copy(book: zipfile.ZipFile, copy: IO[bytes], rewrites: dict[str, _Rewrite]) -> None:
    with zipfile.ZipFile(copy, "w") as written:
        for part in book.infolist():
            with book.open(part) as content, written.open(part.filename, "w", force_zip64=True) as target:
                rewrite = rewrites.get(part.filename, bytes)
                for piece in _pieces(content):
                    target.write(rewrite(piece))


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    """XML in pieces that end before the start of a row, so that no cell is cut."""
    rest = b""
    while chunk := content.read(PIECE_BYTES):
        piece = rest + chunk
        cut = max(piece.rfind(b"<row"), piece.rfind(b"-row"), piece.rfind(b":row"))
        rest = piece[cut:] if cut > 0 else b""
        yield piece[:cut] if cut > 0 else piece
    yield rest


# -- XLSX -----------------------------------------------------------------------------------------------

_ERROR_CELL = re.compile(rb"""(<(?:\w+:)?c\b[^<>]*?\st=["'])e(["'])""")
_FORMULA_CELL = re.compile(
    rb"<((?:\w+:)?)c\b([^<>]*)>\s*"
    rb"<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>([^<]*)</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*"
    rb"</(?:\w+:)?c>"
)
"""A cell with a formula and no value."""
_TYPE = re.compile(rb"""\st=["'](\w*)["']""")
_FORMAT = re.compile(rb"""numFmtId=["'](\d+)["']""")
_FORMATS = re.compile(rb"<(\w+:)?numFmts\b.*?</(\w+:)?numFmts>", re.DOTALL)
_NOT_DATES = {*range(14), *range(37, 45), 48, 49}
"""Number formats that show no date (ECMA-376 part 1, 18.8.30)."""


def _with_errors_and_formulas(sheet: bytes) -> bytes:
    if b't="e"' in sheet or b"t='e'" in sheet:
        sheet = _ERROR_CELL.sub(rb"\1str\2", sheet)
    if b"<f" in sheet or b":f" in sheet:
        sheet = _FORMULA_CELL.sub(_with_formula_as_text, sheet)
    return sheet


def _with_formula_as_text(cell: re.Match[bytes]) -> bytes:
    prefix, attributes, formula = cell.groups(b"")
    declared = _TYPE.search(attributes)
    if declared and declared[1] == b"str":  # the value is the empty text
        return cell[0]
    attributes = _TYPE.sub(b"", attributes)
    text = NO_VALUE.encode() + b" =" + formula
    return b'<%bc%b t="str"><%bv>%b</%bv></%bc>' % (prefix, attributes, prefix, text, prefix, prefix)


def _without_dates(styles: bytes) -> bytes:
    if all(int(number) in _NOT_DATES for number in _FORMAT.findall(styles)):
        return styles
    return _FORMAT.sub(b'numFmtId="0"', _FORMATS.sub(b"", styles))


# -- ODS ------------------------------------------------------------------------------------------------

_SPACE = re.compile(rb">\s+(?=</?table:)")
_ERROR_TEXT = re.compile(rb"""(<table:table-cell\b[^<>]*?)\soffice:string-value=""([^<>]*>\s*<text:p>#)""")
"""LibreOffice stores an error as an empty string that is shown as `#REF!`."""


def _without_space(content: bytes) -> bytes:
    return _ERROR_TEXT.sub(rb"\1\2", _SPACE.sub(b">", content))

"""Rewrites workbooks so that calamine returns each cell as it is stored.

calamine turns numbers that are formatted as dates into dates, and fails for large ones. It returns cells with
errors, and formulas without a stored value, as empty. It passes over some cells of XLSB, and refuses white
space between the cells of ODS. A sheet that it could not hold in memory is replaced by one that says so.
"""

import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from batchlic.reader.formats.workbooks import ods, xls, xlsb, xml_parts
from batchlic.reader.formats.workbooks.tables import Extent, Table
from batchlic.reader.formats.workbooks.xml_parts import Rewrite


class PlainCopy(NamedTuple):
    """A workbook for calamine, and what it does not tell of the sheets, by their names.

    `tables`: those of ODS and XLSB. `hidden`: the hidden rows, in all formats, from 0. `has_dates`: whether
    some of its numbers may be formatted as dates.
    """

    file: IO[bytes]
    tables: Mapping[str, Table]
    hidden: Mapping[str, Set[int]]
    has_dates: bool


def plain_copy(file: Path | IO[bytes], files: ExitStack, *, shows_dates: bool = False) -> PlainCopy:
    """The workbook itself if nothing has to be rewritten, or else a rewritten copy; closed by `files`.

    With `shows_dates`, numbers that are formatted as dates become dates.

    Raises ValueError if the workbook is damaged.
    """
    original = files.enter_context(file.open("rb")) if isinstance(file, Path) else file
    copy = original
    tables: Mapping[str, Table] = {}
    hidden: dict[str, set[int]] = {}
    has_dates = False
    if zipfile.is_zipfile(original):
        with zipfile.ZipFile(original) as book:
            _refuse_encrypted(book)
            found = {part: Table() for part in book.namelist()}
            changes = {
                part: change for part, table in found.items() if (change := _change(book, part, table))
            }
            tables = _tables_of_ods(book) or {
                name: found[part] for part, name in xlsb.sheet_names(book).items() if part in found
            }
            hidden = {name: table.hidden for name, table in tables.items()} or {
                name: found[part].hidden
                for part, name in xml_parts.sheet_names(book).items()
                if part in found
            }
            has_dates = any(map(_STYLES.fullmatch, changes))
            if shows_dates:
                changes = {part: change for part, change in changes.items() if not _STYLES.fullmatch(part)}
            if changes:
                copy = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
                _write_copy(book, copy, changes)
    else:
        original.seek(0)
        if original.read(len(xls.MAGIC)) == xls.MAGIC:
            original.seek(0)
            content = original.read()  # calamine reads all of it, too; such files have at most 65,536 rows
            rewritten = xls.rewritten(content, hidden, shows_dates=shows_dates)
            has_dates = True
            copy = original if rewritten == content else io.BytesIO(rewritten)
    copy.seek(0)
    return PlainCopy(copy, tables, hidden, has_dates)


_STYLES = re.compile(r"/?xl[/\\]styles\.(xml|bin)", re.IGNORECASE)


def _change(book: zipfile.ZipFile, part: str, table: Table) -> Rewrite | bytes | None:
    """How a part is rewritten, or what replaces it; None if it stays, as most parts. `table` is filled."""
    of_xml, of_records = xml_parts.rewrite_of(part), xlsb.rewrite_of(part)
    rewrite = of_xml or of_records
    if rewrite is None:
        return None
    with book.open(part) as content:
        is_changed = False
        for before, after in rewrite(content, table):
            is_changed = is_changed or before != after
    if table.extent.is_too_large and of_xml:
        with book.open(part) as content:
            table.extent = xml_parts.exact_extent(content)
    if table.extent.is_too_large:
        one_cell = xml_parts.sheet_of_one_cell if of_xml else xlsb.sheet_of_one_cell
        replacement = one_cell(table.extent.text)
        table.extent = Extent()
        return replacement
    return rewrite if is_changed else None


def _refuse_encrypted(book: zipfile.ZipFile) -> None:
    """Raise ValueError if an ODS file has a password."""
    manifest = "META-INF/manifest.xml"
    if manifest in book.namelist() and b":encryption-data" in book.read(manifest):
        raise ValueError(xls.LOCKED)


def _tables_of_ods(book: zipfile.ZipFile) -> Mapping[str, Table]:
    """The tables of an ODS file; empty if calamine alone reads them right."""
    if xml_parts.ODS_CONTENT not in book.namelist():
        return {}
    with book.open(xml_parts.ODS_CONTENT) as content:
        if not any(map(ods.matters, xml_parts.pieces(content))):
            return {}
    with book.open(xml_parts.ODS_CONTENT) as content:
        return ods.tables(xml_parts.pieces(content))


def _write_copy(book: zipfile.ZipFile, copy: IO[bytes], changes: Mapping[str, Rewrite | bytes]) -> None:
    with zipfile.ZipFile(copy, "w") as written:
        for part in book.infolist():
            with (
                book.open(part) as content,
                written.open(part.filename, "w", force_zip64=True) as target,
            ):
                change = changes.get(part.filename)
                if change is None:
                    shutil.copyfileobj(content, target)
                elif isinstance(change, bytes):
                    target.write(change)
                else:
                    target.writelines(after for _, after in change(content, Table()))

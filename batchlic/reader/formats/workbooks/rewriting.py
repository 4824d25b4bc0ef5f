"""Rewrites workbooks so that calamine returns each cell as it is stored.

calamine turns numbers that are formatted as dates into dates, and fails for large ones. It returns cells with
errors, and formulas without a stored value, as empty. It passes over some cells of XLSB, and refuses white
space between the cells of ODS.
"""

import io
import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from batchlic.reader.formats.workbooks import xls, xlsb, xml_parts


def plain_copy(file: Path | IO[bytes], files: ExitStack) -> IO[bytes]:
    """The workbook itself if nothing has to be rewritten, or else a rewritten copy; closed by `files`.

    Raises ValueError if the workbook is damaged.
    """
    original = files.enter_context(file.open("rb")) if isinstance(file, Path) else file
    copy = original
    if zipfile.is_zipfile(original):
        with zipfile.ZipFile(original) as book:
            parts = {part for part in book.namelist() if _applies(book, part)}
            if parts:
                copy = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
                _write_copy(book, copy, parts)
    else:
        original.seek(0)
        if original.read(len(xls.MAGIC)) == xls.MAGIC:
            original.seek(0)
            content = original.read()  # calamine reads all of it, too; such files have at most 65,536 rows
            rewritten = xls.rewritten(content)
            copy = original if rewritten == content else io.BytesIO(rewritten)
    copy.seek(0)
    return copy


def _applies(book: zipfile.ZipFile, part: str) -> bool:
    """Whether rewriting changes anything. Most workbooks are read as they are."""
    rewrite = xml_parts.rewrite_of(part) or xlsb.rewrite_of(part)
    if rewrite is None:
        return False
    with book.open(part) as content:
        return any(before != after for before, after in rewrite(content))


def _write_copy(book: zipfile.ZipFile, copy: IO[bytes], parts: set[str]) -> None:
    with zipfile.ZipFile(copy, "w") as written:
        for part in book.infolist():
            name = part.filename
            rewrite = xml_parts.rewrite_of(name) or xlsb.rewrite_of(name)
            with book.open(part) as content, written.open(name, "w", force_zip64=True) as target:
                if rewrite is None or name not in parts:
                    shutil.copyfileobj(content, target)
                    continue
                for _, piece in rewrite(content):
                    target.write(piece)

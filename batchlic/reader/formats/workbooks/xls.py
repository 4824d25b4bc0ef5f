"""Rewrites the records of XLS (MS-XLS) for calamine: errors become text, and formats of dates general ones.

An XLS file is a compound file (MS-CFB), a small file system, with the records in its stream "Workbook".
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from batchlic.reader.formats.workbooks.xlsb import ERRORS
from batchlic.reader.formats.workbooks.xml_parts import NOT_DATES

_STREAMS = ("workbook", "book")
_BOF, _EOF, _SHEET, _PASSWORD, _FORMAT = 0x0809, 0x000A, 0x0085, 0x002F, 0x00E0
_FORMULA, _LABEL, _BOOL_OR_ERROR = 0x0006, 0x0204, 0x0205
_BIFF8 = 0x0600
_NO_WORKBOOK = "the file is not a workbook (for example, it is a Word document)"
LOCKED = "it has a password: open it in a spreadsheet program, and save it without one"


def rewritten(file: bytes, hidden: dict[str, set[int]], *, shows_dates: bool = False) -> bytes:
    """A compound file with the rewritten records only; `file` itself if there is nothing to rewrite.

    `hidden` gets the hidden rows of each sheet. With `shows_dates`, the formats of dates stay. Raises
    ValueError if the file is damaged or has a password.
    """
    try:
        stream = _stream(file)
        plain = _plain(stream, hidden, shows_dates=shows_dates)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the file is cut off ({error})") from None
    return file if plain == stream else _compound_file(plain)


# -- records --------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    kind: int
    body: bytes
    depth: int
    """1 within the workbook or a sheet, and more within a chart of the sheet."""


def _packed(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, len(body)) + body


def _records(stream: bytes, at: int) -> Iterator[_Record]:
    """The records of the workbook or of a sheet, which begins at `at`."""
    depth = 0
    while True:
        kind, size = struct.unpack_from("<HH", stream, at)
        if at + 4 + size > len(stream):
            raise ValueError("the last record is cut off")
        depth += kind == _BOF
        yield _Record(kind, stream[at + 4 : at + 4 + size], depth)
        depth -= kind == _EOF
        if kind == _EOF and depth <= 0:
            return
        at += 4 + size


def _plain(stream: bytes, hidden: dict[str, set[int]], *, shows_dates: bool) -> bytes:
    book, sheets, biff = bytearray(), dict[int, str](), _BIFF8
    for kind, body, _ in _records(stream, 0):
        is_date = kind == _FORMAT and struct.unpack_from("<H", body, 2)[0] not in NOT_DATES
        is_hidden = is_date and not shows_dates
        book += _packed(kind, body[:2] + bytes(2) + body[4:] if is_hidden else body)
        if kind == _PASSWORD:
            raise ValueError(LOCKED)
        if kind == _BOF:
            biff = struct.unpack_from("<H", body)[0]
        elif kind == _SHEET:
            sheets[len(book) - len(body)] = _name(body, biff)
    is_changed = book != stream[: len(book)]
    for place, name in sheets.items():
        start = struct.unpack_from("<I", book, place)[0]
        struct.pack_into("<I", book, place, len(book))
        for record in _records(stream, start):
            _refuse_far_cells(record)
            if record.kind == _ROW and len(record.body) > _FLAGS and record.body[_FLAGS] & _HIDDEN:
                hidden.setdefault(name, set()).add(struct.unpack_from("<H", record.body)[0])
            if (error := _error(record)) is None:
                book += _packed(record.kind, record.body)
                continue
            is_changed = True
            text = struct.pack("<H", len(error)) + (b"\0" if biff == _BIFF8 else b"") + error.encode()
            book += _packed(_LABEL, record.body[:6] + text)
    return bytes(book) if is_changed else stream


_ROW, _FLAGS, _HIDDEN = 0x0208, 12, 0x20
"""A row, where it has its flags, and the one of hidden rows (fDyZero)."""


def _name(sheet: bytes, biff: int) -> str:
    """The name in the record of a sheet."""
    if biff != _BIFF8:
        return sheet[7:].decode("cp1252", "replace")
    return sheet[8:].decode("utf-16-le" if sheet[7] & 1 else "latin-1", "replace")


_SIZE = 0x0200
_MULTIPLE = {0x00BD, 0x00BE}
"""Records of several cells, which end with the last column."""
_CELLS = {_FORMULA, _LABEL, _BOOL_OR_ERROR, 0x0201, 0x0203, 0x027E, 0x00D6, 0x00FD, *_MULTIPLE}
_MAX_ROWS, _MAX_COLUMNS = 1 << 16, 1 << 8


def _refuse_far_cells(record: _Record) -> None:
    """Raise ValueError if a damaged record would have calamine allocate more than a sheet can have."""
    kind, body, _ = record
    first_row = first_column = rows = columns = 0
    if kind == _SIZE:
        form = "<4H" if len(body) == struct.calcsize("<5H") else "<IIHH"
        first_row, rows, first_column, columns = struct.unpack_from(form, body)
    elif kind in _CELLS:
        columns = 1 + int(struct.unpack_from("<H", body, len(body) - 2 if kind in _MULTIPLE else 2)[0])
    if first_row > rows or first_column > columns or rows > _MAX_ROWS or columns > _MAX_COLUMNS:
        raise ValueError(
            f"a cell is beyond the {_MAX_ROWS:,} rows and {_MAX_COLUMNS} columns of such a sheet"
        )


def _error(record: _Record) -> str | None:
    """The error that a cell shows; None for other cells and records."""
    kind, body, depth = record
    if depth != 1:
        return None
    if kind == _BOOL_OR_ERROR and body[7] == 1:
        return ERRORS.get(body[6], "#ERROR")
    if kind == _FORMULA and body[6] == 2 and body[12:14] == b"\xff\xff":
        return ERRORS.get(body[8], "#ERROR")
    return None


# -- compound files -------------------------------------------------------------------------------------

MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Start of an XLS file, and of a workbook with a password."""
_LAST = 0xFFFFFFFA
"""The first of the numbers that end a chain of sectors."""
_END, _FAT, _FREE = 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
_ENTRY = 128
_MINI_BYTES, _MINI_SECTOR = 4096, 64
"""Streams below this size are in a stream of small sectors."""
_SECTOR = 4096


def _stream(file: bytes) -> bytes:
    """The stream with the records. Raises ValueError if the file has none."""
    shift = struct.unpack_from("<H", file, 30)[0]
    if shift not in {9, 12}:
        raise ValueError("the compound file has an unknown form")
    sector = 1 << shift
    directory, _, _, mini_fat, _, more, _ = struct.unpack_from("<7I", file, 48)
    fat_sectors = struct.unpack_from("<109I", file, 76)
    while more < _LAST and len(fat_sectors) * sector <= len(file):
        numbers = _numbers(_sectors(file, [more], sector, sector))
        fat_sectors, more = fat_sectors + numbers[:-1], numbers[-1]
    fat = _numbers(_sectors(file, [at for at in fat_sectors if at < _LAST], sector, sector))
    _refuse_joined(file, fat, sector)
    entries = _sectors(file, _chain(directory, fat), sector, sector)
    root = _Entry.at(entries, 0)
    for place in range(0, len(entries), _ENTRY):
        entry = _Entry.at(entries, place)
        if entry.name.lower() not in _STREAMS:
            continue
        if entry.size >= _MINI_BYTES:
            stream = _sectors(file, _chain(entry.start, fat), sector, sector)
        else:
            minis = _sectors(file, _chain(root.start, fat), sector, sector)
            numbers = _numbers(_sectors(file, _chain(mini_fat, fat), sector, sector))
            stream = _sectors(minis, _chain(entry.start, numbers), _MINI_SECTOR, 0)
        if len(stream) < entry.size:
            raise ValueError("the file is cut off")
        return stream[: entry.size]
    names = {_Entry.at(entries, place).name for place in range(0, len(entries), _ENTRY)}
    raise ValueError(LOCKED if "EncryptedPackage" in names else _NO_WORKBOOK)


def _refuse_joined(file: bytes, fat: tuple[int, ...], sector: int) -> None:
    """Raise ValueError if another compound file begins in sectors that are not in use."""
    at = 0
    while (at := file.find(MAGIC, at + 1)) > 0:
        number = at // sector - 1
        if number >= len(fat) or fat[number] == _FREE:
            raise ValueError("two files were joined to one: give them one by one")


class _Entry(NamedTuple):
    """A stream in the directory of a compound file."""

    name: str
    start: int
    size: int

    @classmethod
    def at(cls, entries: bytes, place: int) -> "_Entry":
        length, (start, size) = entries[place + 64], struct.unpack_from("<II", entries, place + 116)
        return cls(entries[place : place + max(0, length - 2)].decode("utf-16-le", "replace"), start, size)


def _numbers(sectors: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(sectors) // 4}I", sectors[: len(sectors) // 4 * 4])


def _chain(start: int, following: tuple[int, ...]) -> list[int]:
    """The sectors of a stream, each of which names the next one."""
    chain: list[int] = []
    while start < _LAST:
        if len(chain) > len(following):
            raise ValueError("the sectors of the compound file run in a circle")
        chain.append(start)
        start = following[start]
    return chain


def _sectors(file: bytes, numbers: list[int], size: int, first: int) -> bytes:
    """Sectors of a file, the first of which starts at `first`."""
    return b"".join(file[first + number * size : first + (number + 1) * size] for number in numbers)


def _compound_file(stream: bytes) -> bytes:
    """A compound file with one stream, called Workbook."""
    stream = stream.ljust(_MINI_BYTES, b"\0")
    count = -(-len(stream) // _SECTOR)
    fats = -(-(count + 2) // (_SECTOR // 4 - 1))
    chains = [*[_FAT] * fats, _END, *range(fats + 2, fats + 1 + count), _END]
    table = struct.pack(f"<{len(chains)}I", *chains).ljust(fats * _SECTOR, b"\xff")
    entries = _entry("Root Entry", 5, 1, 0, 0) + _entry("Workbook", 2, _FREE, fats + 1, len(stream))
    header = struct.pack("<8s16x5H6x", MAGIC, 0x3E, 4, 0xFFFE, 12, 6)
    header += struct.pack("<9I", 1, fats, fats, 0, _MINI_BYTES, _END, 0, _END, 0)
    header += struct.pack(f"<{min(fats, 109)}I", *range(min(fats, 109))).ljust(4 * 109, b"\xff")
    sectors = (header, table, entries, stream)
    return b"".join(part.ljust(-(-len(part) // _SECTOR) * _SECTOR, b"\0") for part in sectors)


def _entry(name: str, kind: int, child: int, start: int, size: int) -> bytes:
    text = name.encode("utf-16-le")
    names = struct.pack("<64sHBB3I", text, len(text) + 2, kind, 1, _FREE, _FREE, child)
    return names + bytes(36) + struct.pack("<IQ", start, size)

"""Finds the header of a table, and with it the columns and the first row of data.

Exports have titles, instructions and comments above the header, or a header on two lines. A line above a
known header is left out only if it holds no number like an identifier; otherwise the table has no header.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from batchlic.errors import InventoryError
from batchlic.reader.columns import contents, matching
from batchlic.reader.columns.headers import fold
from batchlic.reader.columns.matching import Columns
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role, kept_cell

LINES_ABOVE = 30
"""Records above the header that may be titles."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table. `first_row`: the number of records before the first row of data.

    `headers`: the headers by position; empty if the table has no header. `available`: the same, or the
    positions of a table without header. `kept`: the positions of the columns to keep, by their names.
    `header_line`: the record above the first row of data, if it is a header or the second line of one.
    """

    first_row: int
    headers: Sequence[str]
    columns: Columns
    notes: tuple[str, ...] = ()
    available: Sequence[str] = ()
    kept: Mapping[str, int] = field(default_factory=dict)
    header_line: Sequence[str] = ()

    @property
    def cells(self) -> dict[str, int]:
        """The positions of the columns of a block."""
        roles = {role.value: at for role, at in self.columns.positions.items()}
        return roles | {kept_cell(name): at for name, at in self.kept.items()}

    @property
    def headers_by_role(self) -> dict[Role, str]:
        """The headers of the columns that are read."""
        if not self.headers:
            return {}
        return {role: self.headers[position] for role, position in self.columns.positions.items()}

    @property
    def repeated_at(self) -> int:
        """The position of the identifier whose header shows that a record is a header, too; or -1."""
        positions = self.columns.positions
        at = next((positions[role] for role in IDENTIFIERS if role in positions), -1)
        is_known = 0 <= at < len(self.header_line) and bool(self.header_line[at].strip())
        return at if is_known else -1

    def refuse_other_header(self, name: str, record: Sequence[str]) -> None:
        """Raise InventoryError if a record is a header whose columns are not those of this table.

        Call this only for records with the header at `repeated_at`: tables that were joined into one file.
        """
        if _folded(record) not in (_folded(self.headers), _folded(self.header_line)):
            raise InventoryError(
                f"{name}: there is a second header with other columns, "
                f"{matching.listed(record, range(len(record)))}: move it and the rows below it to another "
                f"file"
            )


def _folded(headers: Sequence[str]) -> list[str]:
    """Folded headers without empty ones at the end."""
    folded = list(map(fold, headers))
    while folded and not folded[-1]:
        folded.pop()
    return folded


def find(name: str, records: Sequence[Sequence[str]], options: ReadOptions, where: str = "") -> Layout:
    """The layout of a table whose first records are `records` (at least one).

    Raises InventoryError if no column is an identifier, or if a column is unclear; `where` says for that
    error which part of the file was searched.
    """
    found = _found(name, records, options, where)
    available = found.headers or [str(at + 1) for at in range(max(map(len, records)))]
    return replace(found, available=available, kept=matching.kept(name, available, options))


def _found(name: str, records: Sequence[Sequence[str]], options: ReadOptions, where: str) -> Layout:
    if (known := known_header(records, options)) is not None:
        rows = records[known.first_row :]
        found = matching.by_header(name, known.headers, options, sample=rows)
        above = records[: known.first_row - known.lines]
        if not _has_accounts(found, rows):
            matching.refuse_other_accounts(name, list(map(" ".join, above)), options)
        notes = (*_left_out(name, above), *found.notes)
        return Layout(known.first_row, known.headers, found, notes, header_line=records[known.first_row - 1])
    first = records[0]
    if _is_first_row(first, options):
        found = matching.by_content(name, records, options, where)
        return Layout(0, (), found, found.notes)
    found = matching.by_header(name, first, options, sample=records[1:])
    if not found.has_identifier:
        raise matching.no_identifier_error(name, first, records[1:], where)
    taken = f"{name}: row 1 is taken for the header: {matching.listed(first, range(len(first)))}"
    return Layout(1, first, found, (taken, *found.notes), header_line=first)


def _has_accounts(found: Columns, rows: Sequence[Sequence[str]]) -> bool:
    """Whether there is a column of accounts, with a cell that is not empty."""
    at = found.positions.get(Role.ACCOUNT)
    return at is not None and any(row[at].strip() for row in rows if at < len(row))


def _is_first_row(first: Sequence[str], options: ReadOptions) -> bool:
    """Whether a first record under no known header is a device: headers have no numbers."""
    if any(map(_is_number, first)):
        return True
    named = [
        int(column) - 1
        for role, column in options.columns.items()
        if role in IDENTIFIERS and column.isdecimal()
    ]
    return any(any(map(str.isdigit, first[at])) for at in named if at < len(first))


@dataclass(frozen=True, slots=True)
class Header:
    """A header on one or two `lines`; `roles`: the number of roles with a known column in it."""

    first_row: int
    headers: Sequence[str]
    lines: int = 1
    roles: int = 0


def known_header(records: Sequence[Sequence[str]], options: ReadOptions) -> Header | None:
    """The first record with a known column, or that and the next one; None if a device comes before it."""
    best: Header | None = None
    above: Sequence[str] = ()
    for number, record in enumerate(records[: LINES_ABOVE + 1]):
        if any(map(_is_like_device, record)):
            break
        for header in (
            Header(number + 1, record, roles=_roles(record, options)),
            Header(number + 1, joined := _joined(above, record), 2, _roles(joined, options)),
        ):
            if header.roles > (best.roles if best else 0):
                best = header
        if best is not None and best.first_row <= number:
            break
        above = record
    return best


def _roles(headers: Sequence[str], options: ReadOptions) -> int:
    """The number of roles with a column under these headers; 0 if none of them is an identifier."""
    try:
        found = matching.by_header("", headers, options)
    except InventoryError:  # a named column is missing, or two columns fit: both need known headers
        return int(matching.names_identifier(headers, options))
    named_by_position = {
        role for role, column in options.columns.items() if column.isdecimal() and column not in headers
    }
    known = [role for role in found.positions if role not in named_by_position]
    return len(known) if any(role in known for role in IDENTIFIERS) else 0


def _joined(above: Sequence[str], below: Sequence[str]) -> list[str]:
    """Two lines of a header as one. A heading above several columns belongs to all of them."""
    headings: list[str] = []
    for position in range(len(below)):
        heading = above[position] if position < len(above) else ""
        headings.append(heading or (headings[-1] if headings else ""))
    return [f"{heading} {header}".strip() for heading, header in zip(headings, below, strict=True)]


def _left_out(name: str, above: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if not above:
        return ()
    first = " ".join(cell for cell in above[0] if cell.strip())
    lines = "1 line" if len(above) == 1 else f"{len(above)} lines"
    return (f"{name}: {lines} above the header left out: {first[:60]!r}{' …' if len(above) > 1 else ''}",)


_MANGLED = re.compile(r"\d([.,]\d*)?[eE]\+?1\d")
"""A number with 11 to 20 digits as a spreadsheet shows it."""
_LONG_NUMBER = re.compile(r"(?<![\dA-Fa-f])[\dA-Fa-f](?:[ \-.]?[\dA-Fa-f]){12,}(?![\dA-Fa-f])")
_MIN_DIGITS = 10
"""Digits of a long number, perhaps hexadecimal, that could be a damaged identifier."""
_MIN_DECIMAL_DIGITS = 12
"""Digits of a decimal number that could be one: purchase orders and the like have fewer."""
_TIME = re.compile(
    r"(?<!\d)(19|20)\d\d[-. ]?(0[1-9]|1[0-2])[-. ]?(0[1-9]|[12]\d|3[01])"
    r"[T _-]?([01]\d|2[0-3])[:. ]?[0-5]\d([:. ]?[0-5]\d)?(?!\d)"
)
_PHONE = re.compile(r"\+\d{1,3}[ (.-][\d ().-]+")


_DECIMAL = re.compile(r"(?<!\d)\d(?:[ \-.]?\d){13,}(?!\d)")
_LIKE_IDENTIFIER = re.compile(
    r"(?:01|35|86|99)\d{12,14}|1\d{13}"  # an IMEI, perhaps without its first zero or its check digit
    r"|89\d{12,18}|98\d{16,18}"  # an ICCID, perhaps cut, or with its digits swapped in pairs
    r"|\d{32}"  # an EID
)
_LIKE_MEID = re.compile(
    r"(?<![0-9A-Za-z])(?=\d*[A-Fa-f])(?=(?:[A-Fa-f]*\d){10})[0-9A-Fa-f]{14,17}(?![0-9A-Za-z])"
)


def _is_like_device(cell: str) -> bool:
    """Whether a cell above a known header holds an identifier, perhaps a damaged one.

    Numbers of orders and reports are as long, but they begin with other digits and have no check digit.
    """
    bare = _bare(cell)
    if any(contents.are_identifiers(role, [bare]) for role in IDENTIFIERS):  # alone in its cell
        return True
    numbers = (re.sub(r"\D", "", found) for found in _DECIMAL.findall(bare))
    return _is_mangled(bare) or bool(_LIKE_MEID.search(bare)) or any(map(_LIKE_IDENTIFIER.fullmatch, numbers))


def _bare(cell: str) -> str:
    """A cell without accounts, times and phone numbers."""
    return _PHONE.sub("", _TIME.sub("", contents.without_accounts(cell))).strip()


def _could_be_device(cell: str) -> bool:
    """Whether a cell holds a number that could be an identifier, perhaps a damaged one."""
    bare = _bare(cell)
    long = _LONG_NUMBER.search(bare)
    digits = sum(map(str.isdigit, long[0])) if long else 0
    return digits >= _MIN_DIGITS or _is_mangled(bare) or (bare.isdigit() and len(bare) >= _MIN_DECIMAL_DIGITS)


def _is_mangled(cell: str) -> bool:
    return _MANGLED.fullmatch(cell.strip()) is not None


def _is_number(cell: str) -> bool:
    """Whether a cell is mostly digits, at least 6 of them, as no header is."""
    digits = sum(character.isdigit() for character in cell)
    return _could_be_device(cell) or (digits >= 6 and 2 * digits >= len(cell.strip()))

"""Reads inventories in delimited text (comma, semicolon, tab and others) in blocks, several at once.

Blocks of whole records keep memory bounded, and work for any stream of bytes.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.columns import layout
from batchlic.reader.columns.contents import IDENTIFIER_OR_ACCOUNT, is_identifier_or_account
from batchlic.reader.columns.layout import Layout
from batchlic.reader.inputs import streams
from batchlic.reader.inputs.encodings import decoded, with_newlines
from batchlic.reader.inventory import (
    LONG,
    SHIFTED,
    SHORT,
    SHORTEST,
    WHOLE,
    Block,
    Ending,
    Inventory,
    empty,
    is_too_short,
)
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, TARGETS

SEPARATORS = ",;\t|^~"
BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 16 << 20
"""If a record is longer, batchlic reports a quote that is not closed."""
_LONGEST_HEADER = 1 << 16
"""Bytes of a header, at most, that is compared with the one of the file."""
EXTRA_CELLS = 8
"""Cells beyond the header that polars parses. If a row has more of them, Python parses its block."""
SAMPLE = 200
"""Records that batchlic reads to find the separator, the header, and the columns of a file without header."""
BLANKS = "\t\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""White space (Unicode property White_Space) but newlines: a line of nothing else is blank."""

MARK = "\x1e"
"""An extra last cell (ASCII record separator) of every line that polars parses.

The column of this cell shows the width of the row. Without this cell, polars would fill short rows and cut
long ones silently.
"""

_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_AFTER_IDENTIFIER = re.compile(r"(?<!\d)(?:\d{15}|89\d{16,18})(?!\d)[\"']?([^\w\"'\n]+)(?=[\w\"'])")


def inventory(text: streams.Opened, options: ReadOptions) -> Inventory:
    """Open UTF-8, Windows-1252 or Latin-1 text. Its header, if it has one, is in the first lines."""
    name, source = text.name, with_newlines(text)
    table = _sniff(source, options)
    if table is None:
        return empty(name)
    parser = _Parser(name, table.dialect, table.layout)

    ending = Ending()

    def blocks() -> Iterator[Block]:
        for block in _whole_records(name, source.stream, table.dialect, ending):
            yield partial(parser.parse, block)

    return Inventory(
        name=name,
        roles=table.layout.columns.positions.keys(),
        headers=table.layout.headers_by_role,
        blocks=blocks,
        notes=table.layout.notes,
        ending=ending,
        kept=table.layout.kept,
        available=table.layout.available,
    )


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The form of a text: the separator of its cells, and the number of cells of its header or first row."""

    separator: str
    width: int
    preamble: int
    """Lines before the first row: titles, the header, blank lines and `sep=;`."""


@dataclass(frozen=True, slots=True)
class _Table:
    dialect: _Dialect
    layout: Layout


@dataclass(frozen=True, slots=True)
class _Record:
    """The cells of a record, and the number of lines from the start of the text to its end."""

    cells: list[str]
    end: int


def _sniff(source: streams.Opened, options: ReadOptions) -> _Table | None:
    """The dialect and the layout of a text, found in its first records; None if it has none."""
    is_whole = len(source.head) < streams.HEAD_BYTES
    whole_lines = source.head if is_whole else source.head.rpartition(b"\n")[0] or source.head
    lines = [f"{line}\n" for line in decoded(whole_lines).split("\n")]
    start = next((number for number, line in enumerate(lines) if line.strip("\n" + BLANKS)), None)
    if start is None:
        return None
    hint = _NAMED_SEPARATOR.fullmatch(lines[start])
    if hint and (not hint[1].isascii() or hint[1].isalnum()):
        raise InventoryError(
            f"{source.name}: line {start + 1} names {hint[1]!r} as the separator, which batchlic can't use: "
            "write the file with commas"
        )
    start += 1 if hint else 0
    candidates = {
        separator: _records(lines, start, separator) for separator in (hint[1] if hint else SEPARATORS)
    }
    if not any(candidates.values()):
        return None
    separator, records = max(candidates.items(), key=lambda candidate: _fit(candidate[1], options))
    cells = [record.cells for record in records]
    try:
        found = layout.find(source.name, cells, options)
    except InventoryError:
        _refuse_unknown_separator(source.name, lines[start:], cells)
        raise
    if len(found.headers) > 1:
        _refuse_other_separator(source.name, separator, lines[start:], cells[found.first_row :])
    preamble = records[found.first_row - 1].end if found.first_row else start
    width = len(found.headers) or max(map(len, cells))
    return _Table(_Dialect(separator, width, preamble), found)


def _refuse_unknown_separator(name: str, lines: list[str], records: list[list[str]]) -> None:
    """Raise InventoryError if all records have one cell, and an unknown separator seems to be in it."""
    separator = _usual_separator(lines)
    if separator and set(separator).isdisjoint(SEPARATORS) and max(map(len, records)) == 1:
        can_be_named = len(separator) == 1 and "!" <= separator <= "~"
        advice = f"add the line sep={separator} at the top" if can_be_named else "write the file with commas"
        raise InventoryError(f"{name}: the cells seem to be separated by {separator!r}: {advice}")


def _refuse_other_separator(name: str, separator: str, lines: list[str], rows: list[list[str]]) -> None:
    """Raise InventoryError if another character separates the cells of the first rows below a header."""
    other = _usual_separator(lines)
    if other and separator not in other and rows and max(map(len, rows)) == 1:
        raise InventoryError(
            f"{name}: the header has {separator!r} between its cells, and the rows below it have {other!r}: "
            "use one of them in all lines"
        )


def _usual_separator(lines: list[str]) -> str:
    """What is between the first identifier and the next word in most lines; empty if there is nothing."""
    found = Counter(after[1] for line in lines[:SAMPLE] if (after := _AFTER_IDENTIFIER.search(line)))
    separator, count = found.most_common(1)[0] if found else ("", 0)
    return separator if 2 * count > len(lines[:SAMPLE]) - 2 else ""


def _records(lines: list[str], start: int, separator: str) -> list[_Record]:
    """The first records of a text from a line on. A record that can't be parsed ends them."""
    reader = csv.reader((line.replace("\r", " ") for line in lines[start:]), delimiter=separator)
    records: list[_Record] = []
    try:
        for cells in reader:
            if _is_row(cells):
                records.append(_Record(cells, start + reader.line_num))
            if len(records) == SAMPLE:
                break
    except csv.Error:  # a giant cell
        return records or [_Record([lines[start]], start + 1)]
    return records


def _fit(records: list[_Record], options: ReadOptions) -> tuple[bool, bool, float, int]:
    """How well a separator fits records.

    With a good one, the header is known, it has several cells, and most records have as many.
    """
    if not records:
        return False, False, 0.0, 0
    cells = [record.cells for record in records]
    header = layout.known_header(cells, options)
    rows = cells[header.first_row - 1 :] if header else cells
    widths = Counter(map(len, rows))
    width = len(rows[0]) if header else widths.most_common(1)[0][0]
    return header is not None, width > 1, round(widths[width] / len(rows), 1), width


def _is_row(record: list[str]) -> bool:
    """Whether a record is a row. A line of separators is an empty row; a blank line is not a row."""
    return len(record) > 1 or bool(record and record[0].strip(BLANKS))


def _whole_records(name: str, stream: BinaryIO, dialect: _Dialect, ending: Ending) -> Iterator[bytes]:
    """Blocks of a stream that end where a record ends. Notes in `ending` how the stream ends."""
    for _ in range(dialect.preamble):
        stream.readline()
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        block = rest + chunk
        _refuse_other_line_ends(name, block)
        cut = _end_of_records(block, dialect.separator.encode())
        if not cut and len(block) > MAX_RECORD_BYTES:
            raise _unclosed_error(name, block[:60].decode("utf-8", "replace"))
        if cut:
            yield block[:cut]
        rest = block[cut:]
    if rest:
        ending.has_newline = rest.endswith(b"\n")
        last = rest.removesuffix(b"\n").rpartition(b"\n")[2]
        ending.is_short = last.count(dialect.separator.encode()) < dialect.width - 1
        yield rest if ending.has_newline else rest + b"\n"


_OTHER_LINE_ENDS = (b"\v", b"\f", "\x85".encode(), "\u2028".encode(), "\u2029".encode())
_ROW_AFTER_OTHER_LINE_END = re.compile(rb'(?<=[^\n])(?:%b)"?[0-9]{10,}' % b"|".join(_OTHER_LINE_ENDS))


def _refuse_other_line_ends(name: str, block: bytes) -> None:
    """Raise InventoryError if rows seem to end in form feeds, or in line ends of other systems."""
    if not any(end in block for end in _OTHER_LINE_ENDS):
        return
    if found := _ROW_AFTER_OTHER_LINE_END.search(block):
        shown = block[max(0, found.start() - 30) : found.end()].decode("utf-8", "replace")
        raise InventoryError(
            f"{name}: a line ends in a form feed, NEL or the like near {shown!r}: save the file with newlines"
        )


def _end_of_records(block: bytes, separator: bytes) -> int:
    """Length of the whole records at the start of `block`."""
    cut = block.rfind(b"\n") + 1
    if block.count(b'"', 0, cut) % 2 == 0:
        return cut
    edge = re.escape(separator) + rb"\r\n"
    quoted = rb'(?<![^%b])"(?:[^"]|"")*"(?![^%b])' % (edge, edge)
    blanked = re.sub(quoted, lambda cell: b" " * len(cell[0]), block[:cut])
    opening = re.search(rb'(?<![^%b])"' % edge, blanked)
    if opening is None:
        return cut  # a quote inside an unquoted cell, such as 5", does not open a quoted cell
    return blanked.rfind(b"\n", 0, opening.start()) + 1


def _unclosed_error(name: str, where: str) -> InventoryError:
    return InventoryError(
        f"{name}: a quote is out of place near {where!r}: close it, or double it if it belongs to the text"
    )


@dataclass(frozen=True, slots=True)
class _Parser:
    """Parses blocks of whole records: a column per role and kept column; more if rows differ in width, or if
    one has no identifier.

    These are SHORT, LONG, SHIFTED and WHOLE.
    """

    name: str
    dialect: _Dialect
    layout: Layout

    @property
    def columns(self) -> Mapping[str, int]:
        """The positions of the columns of a block."""
        return self.layout.cells

    def parse(self, block: bytes) -> pl.DataFrame:
        """The rows of a block that ends with a newline."""
        if not block.isascii():
            block = decoded(block).encode()
        self._refuse_other_header(block)
        if MARK.encode() in block:
            return self._parse_slowly(block)
        marked = block.replace(b"\n", self._mark.encode() + b"\n")
        try:
            rows = self._parse_even(marked, block.count(b"\n"))
            rows = self._parse_uneven(marked) if rows is None else rows
        except pl.exceptions.PolarsError:
            rows = None
        return self._parse_slowly(block) if rows is None else rows

    def _refuse_other_header(self, block: bytes) -> None:
        """Raise InventoryError if a line is a header with other columns than that of the file."""
        at = self.layout.repeated_at
        if at < 0:
            return
        header = self.layout.header_line[at]
        for begin in _lines_with(header.encode(), block, self.dialect.separator.encode()):
            text = io.StringIO(block[begin : begin + _LONGEST_HEADER].decode(errors="replace"), newline="")
            try:
                record = next(csv.reader(text, delimiter=self.dialect.separator))
            except csv.Error:
                continue
            if record[at : at + 1] == [header]:
                self.layout.refuse_other_header(self.name, record)

    @property
    def _mark(self) -> str:
        return self.dialect.separator + MARK

    def _cells(self) -> list[pl.Expr]:
        return [pl.col(str(position)).alias(name) for name, position in self.columns.items()]

    @property
    def _identifiers(self) -> list[int]:
        """The positions of the identifiers."""
        return [self.columns[role] for role in IDENTIFIERS if role in self.columns]

    @property
    def _has_targets(self) -> bool:
        """Whether any long row matters, because all its cells may be shifted.

        An account or a SKU has no check digit that would show this.
        """
        return not self.columns.keys().isdisjoint(TARGETS)

    def _scan(self, marked: bytes, extra: int = 0) -> pl.LazyFrame:
        return pl.scan_csv(  # noqa: TID251 - bytes, not a path
            marked,
            has_header=False,
            separator=self.dialect.separator,
            schema={str(position): pl.String for position in range(self.dialect.width + extra + 1)},
            empty_string_is_null=False,
            truncate_ragged_lines=True,
            missing_columns="insert",  # the first row may be short
        )

    def _parse_even(self, marked: bytes, lines: int) -> pl.DataFrame | None:
        """The cells of a block if every line is a row as wide as the first, with an identifier; or None."""
        last = pl.col(str(self.dialect.width)) == MARK
        cells = self._cells()
        rows = self._scan(marked).select(*cells, last.alias("even")).collect(engine="streaming")
        one_column = self.dialect.width == 1  # then a blank line is as wide as a row
        if rows.height != lines or one_column or not rows["even"].all():
            return None
        lacks_identifier = _are_short(pl.col(role) for role in IDENTIFIERS if role in rows.columns)
        return None if rows.select(lacks_identifier.any()).item() else rows.drop("even")

    def _parse_uneven(self, marked: bytes) -> pl.DataFrame | None:
        """The cells of a block with short, long or blank lines, rows of several lines, or without identifier.

        The mark shows where each row ends. None if a row has many more cells than the header.
        """
        width = self.dialect.width
        for extra in (0, EXTRA_CELLS):
            rows = self._scan(marked, extra).collect(engine="streaming")
            ends = [
                pl.when(pl.col(name) == MARK).then(position) for position, name in enumerate(rows.columns)
            ]
            rows = rows.with_columns(pl.coalesce(ends).alias("end"))
            if not rows["end"].null_count():
                break
        else:
            return None
        cells = [self._unmarked(pl.col(str(position))) for position in range(width + extra)]
        is_blank = (pl.col("end") <= 1) & pl.col("0").str.strip_chars(BLANKS).is_in(["", MARK])
        beyond = cells[width:]
        is_long = _any(cell.str.strip_chars(BLANKS + "\n") != "" for cell in beyond)
        matters = (
            is_long
            if self._has_targets
            else _any(cell.str.contains(IDENTIFIER_OR_ACCOUNT) for cell in beyond)
        )
        rows = rows.filter(~is_blank).with_columns(
            (pl.col("end") < width).alias(SHORT), is_long.alias(SHIFTED), matters.alias(LONG)
        )
        lacks_identifier = _are_short(self._unmarked(pl.col(str(at))) for at in self._identifiers)
        is_odd = pl.col(SHORT) | pl.col(SHIFTED) | lacks_identifier
        has_odd = rows.select(is_odd.any()).item()
        text = pl.concat_str(cells, separator="\n", ignore_nulls=True) if has_odd else pl.lit(None, pl.String)
        return rows.select(
            *map(self._unmarked, self._cells()),
            SHORT,
            SHIFTED,
            LONG,
            pl.when(is_odd).then(text).alias(WHOLE),
        )

    def _unmarked(self, cell: pl.Expr) -> pl.Expr:
        """A cell without the marks of the lines in it; null if it is the mark of its row."""
        return pl.when(cell != MARK).then(cell.str.replace_all(self._mark + "\n", "\n", literal=True))

    def _parse_slowly(self, block: bytes) -> pl.DataFrame:
        """The cells of a block that polars can't parse, or that has marks, by Python's csv module.

        For this module, a quote inside a cell is text.
        """
        text = block.decode()
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.dialect.separator, strict=True)
        rows: list[list[str]] = []
        lines = 0
        try:
            for row in reader:
                lines = reader.line_num
                rows.extend([row] if _is_row(row) else [])
        except csv.Error:
            raise _unclosed_error(self.name, "".join(text.split("\n")[lines : lines + 1])[:60]) from None
        cells = [
            [row[position] if position < len(row) else None for row in rows]
            for position in self.columns.values()
        ]
        width = self.dialect.width
        are_short = [len(row) < width for row in rows]
        are_long = [any(cell.strip(BLANKS + "\n") for cell in row[width:]) for row in rows]
        matter = (
            are_long
            if self._has_targets
            else [any(map(is_identifier_or_account, row[width:])) for row in rows]
        )
        lack_identifier = [
            all(len(cell) < SHORTEST for at in self._identifiers for cell in row[at : at + 1]) for row in rows
        ]
        are_odd = map(any, zip(are_short, are_long, lack_identifier, strict=True))
        texts = ["\n".join(row) if is_odd else None for row, is_odd in zip(rows, are_odd, strict=True)]
        return pl.DataFrame(
            [
                *(
                    pl.Series(name, values, pl.String)
                    for name, values in zip(self.columns, cells, strict=True)
                ),
                pl.Series(SHORT, are_short, pl.Boolean),
                pl.Series(LONG, matter, pl.Boolean),
                pl.Series(SHIFTED, are_long, pl.Boolean),
                pl.Series(WHOLE, texts, pl.String),
            ]
        )


def _lines_with(cell: bytes, block: bytes, separator: bytes) -> Iterator[int]:
    """Where the lines of a block begin that have a cell, with or without quotes."""
    ends = (separator, b'"', b"\n", b"\r", b"")
    found = block.find(cell)
    while found >= 0:
        after = found + len(cell)
        begin = block.rfind(b"\n", 0, found) + 1
        if block[after : after + 1] in ends and (found == begin or block[found - 1 : found] in ends):
            yield begin
        found = block.find(cell, after)


def _are_short(cells: Iterable[pl.Expr]) -> pl.Expr:
    """Whether all cells are too short for an identifier."""
    return pl.all_horizontal(map(is_too_short, cells))


def _any(conditions: Iterable[pl.Expr]) -> pl.Expr:
    """Whether any of some conditions holds for a row; false if there is none."""
    return pl.any_horizontal(pl.lit(value=False), *conditions).fill_null(value=False)

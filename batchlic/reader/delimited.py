"""Reads inventories in delimited text (comma, semicolon, tab, pipe) in blocks, several at once.

Blocks of whole records keep memory bounded, and work for any stream of bytes.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import columns, streams
from batchlic.reader.inventory import SHORT, Block, Inventory, columns_of, empty_error
from batchlic.reader.options import ReadOptions, Role

SEPARATORS = ",;\t|"
BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 16 << 20
"""If a record is longer, batchlic reports a quote that is not closed."""
SAMPLE = 200
"""Records that batchlic reads to find the separator, and the columns of a file without header."""

MARK = "\x1e"
"""An extra last cell (ASCII record separator) of every line that polars parses.

The column of this cell shows the width of the row. Without this cell, polars would fill short rows and cut
long ones silently.
"""

_SEPARATOR_HINT = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def inventory(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open UTF-8, Windows-1252 or Latin-1 text whose first line is a header or holds an identifier."""
    name, source = source.name, streams.with_newlines(source)
    dialect, records = _sniff(source)
    if not columns.looks_like_data(records[0]):
        headers = records[0]
        positions = columns_of(name, headers, options, sample=records[1:])
        notes: tuple[str, ...] = ()
    else:
        headers = []
        positions = columns.by_content(name, records, options)
        shown = ", ".join(f"{role} in column {position + 1}" for role, position in positions.items())
        notes = (f"{name}: no header: columns recognized by content: {shown}",)
    parser = _Parser(name, dialect, positions)

    def blocks() -> Iterator[Block]:
        for number, block in enumerate(_whole_records(name, source.stream, dialect)):
            yield _Unparsed(parser, block, header=bool(headers) and number == 0)

    return Inventory(
        name=name,
        headers={role: headers[position] for role, position in positions.items()} if headers else {},
        blocks=blocks,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The form of a text: the separator of its cells, and the number of cells of its first record."""

    separator: str
    width: int
    preamble: int
    """Lines before the first record: blank lines and `sep=;`."""


def _sniff(source: streams.Opened) -> tuple[_Dialect, list[list[str]]]:
    """The dialect of a text, and its first records."""
    whole_lines = source.head.rpartition(b"\n")[0] or source.head
    lines = _utf8(whole_lines).decode().splitlines(keepends=True)
    start = _first_filled(lines, 0)
    hint = _SEPARATOR_HINT.fullmatch(lines[start]) if start < len(lines) else None
    if hint:
        start = _first_filled(lines, start + 1)
    if start == len(lines):
        raise empty_error(source.name)
    text = "".join(lines[start:])
    candidates = {separator: _records(text, separator) for separator in (hint[1] if hint else SEPARATORS)}
    separator, records = max(candidates.items(), key=lambda candidate: _agreement(candidate[1]))
    return _Dialect(separator, len(records[0]), start), records


def _first_filled(lines: list[str], start: int) -> int:
    return next((number for number in range(start, len(lines)) if lines[number].strip()), len(lines))


def _records(text: str, separator: str) -> list[list[str]]:
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if _is_row(record):
                records.append(record)
            if len(records) == SAMPLE:
                break
    except csv.Error:
        pass  # a giant cell: the records before it are enough to find the dialect
    return records or [[text]]


def _agreement(records: list[list[str]]) -> tuple[bool, float, int]:
    """How well a separator fits records.

    A good one divides them, and most records have as many cells as the first one.
    """
    width = len(records[0])
    same_width = sum(len(record) == width for record in records) / len(records)
    return width > 1, round(same_width, 1), width


def _is_row(record: list[str]) -> bool:
    """Whether a record is a row. A line of separators is an empty row; a blank line is not a row."""
    return len(record) > 1 or bool(record and record[0].strip())


def _whole_records(name: str, stream: BinaryIO, dialect: _Dialect) -> Iterator[bytes]:
    """Blocks of a stream that end where a record ends."""
    for _ in range(dialect.preamble):
        stream.readline()
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        block = rest + chunk
        cut = _end_of_records(block, dialect.separator.encode())
        if not cut and len(block) > MAX_RECORD_BYTES:
            raise _unclosed_error(name, block[:60].decode("utf-8", "replace"))
        if cut:
            yield block[:cut]
        rest = block[cut:]
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


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
class _Unparsed:
    parser: "_Parser"
    block: bytes
    header: bool

    def __call__(self) -> pl.DataFrame:
        rows = self.parser.parse(self.block)
        return rows.slice(1) if self.header else rows


@dataclass(frozen=True, slots=True)
class _Parser:
    """Parses blocks of whole records into one column per role, and SHORT if rows differ in width."""

    name: str
    dialect: _Dialect
    columns: Mapping[Role, int]

    def parse(self, block: bytes) -> pl.DataFrame:
        """The rows of a block that ends with a newline."""
        if not block.isascii():
            block = _utf8(block)
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        marked = block.replace(b"\n", self._mark.encode() + b"\n")
        try:
            rows = self._parse_even(marked, block.count(b"\n"))
            return self._parse_uneven(marked) if rows is None else rows
        except pl.exceptions.PolarsError:
            return self._parse_malformed(block)

    @property
    def _mark(self) -> str:
        return self.dialect.separator + MARK

    def _cells(self) -> list[pl.Expr]:
        return [pl.col(str(position)).alias(role) for role, position in self.columns.items()]

    def _scan(self, marked: bytes) -> pl.LazyFrame:
        return pl.scan_csv(  # noqa: TID251 - bytes, not a path
            marked,
            has_header=False,
            separator=self.dialect.separator,
            schema={str(position): pl.String for position in range(self.dialect.width + 1)},
            empty_string_is_null=False,
            truncate_ragged_lines=True,
        )

    def _parse_even(self, marked: bytes, lines: int) -> pl.DataFrame | None:
        """The cells of a block if every line is a row as wide as the first; otherwise None."""
        last = pl.col(str(self.dialect.width)) == MARK
        cells = self._cells()
        rows = self._scan(marked).select(*cells, last.alias("even")).collect(engine="streaming")
        one_column = self.dialect.width == 1  # then a blank line is as wide as a row
        if rows.height != lines or one_column or not rows["even"].all():
            return None
        return rows.drop("even")

    def _parse_uneven(self, marked: bytes) -> pl.DataFrame:
        """The cells of a block with short, long or blank lines, or with rows of several lines.

        The mark shows where each row ends.
        """
        rows = self._scan(marked).collect(engine="streaming")
        mark_positions = [
            pl.when(pl.col(name) == MARK).then(position) for position, name in enumerate(rows.columns)
        ]
        width = pl.coalesce(*mark_positions, self.dialect.width)
        blank = (width <= 1) & (pl.col("0").str.strip_chars().is_in(["", MARK]))
        cell = pl.col(pl.String)
        return (
            rows.select(
                *self._cells(),
                (width < self.dialect.width).alias(SHORT),
                blank.alias("blank"),
            )
            .filter(~pl.col("blank"))
            .select(
                pl.when(cell != MARK).then(cell.str.replace_all(self._mark + "\n", "\n", literal=True)), SHORT
            )
        )

    def _parse_malformed(self, block: bytes) -> pl.DataFrame:
        """The cells of a block that polars can't parse, by Python's csv module.

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
        short = pl.Series(SHORT, [len(row) < self.dialect.width for row in rows], dtype=pl.Boolean)
        named = zip(self.columns, cells, strict=True)
        return pl.DataFrame([*(pl.Series(role, values, pl.String) for role, values in named), short])


def _utf8(block: bytes) -> bytes:
    """The block as UTF-8. Bytes in another encoding are read as Windows-1252, or else as Latin-1."""
    try:
        block.decode()
    except UnicodeDecodeError:
        pass
    else:
        return block
    try:
        return block.decode("cp1252").encode()
    except UnicodeDecodeError:
        return block.decode("latin-1").encode()

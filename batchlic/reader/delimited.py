"""Inventories as delimited text (comma, semicolon, tab, pipe), in blocks that polars parses side by side.

Blocks of whole records keep memory bounded, and let any stream of bytes be read, decompressing or not.
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
from batchlic.reader.inventory import SHORT, Block, Inventory, columns_of, empty
from batchlic.reader.options import ReadOptions, Role

SEPARATORS = ",;\t|"
BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 16 << 20
"""A record longer than this is taken for one whose quote was never closed."""
SAMPLE = 200
"""Records by which the separator, and the columns of a file without header, are told."""

MARK = "\x1e"
"""An extra last cell (ASCII record separator) given to every line before polars sees it: where it comes out
tells a row of the right width from a short, long or blank one, which polars would fill up or cut silently."""

_SEPARATOR_HINT = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def inventory(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open UTF-8, Windows-1252 or Latin-1 text whose first line is a header or else holds an identifier."""
    name, source = source.name, streams.with_newlines(source)
    dialect, records = _sniff(source)
    if not columns.looks_like_data(records[0]):
        headers = records[0]
        found = columns_of(name, headers, options, sample=records[1:])
        notes: tuple[str, ...] = ()
    else:
        headers = []
        found = columns.by_content(name, records, options)
        shown = ", ".join(f"{role} in column {at + 1}" for role, at in found.items())
        notes = (f"{name}: no header: columns recognised by content: {shown}",)
    parser = _Parser(name, dialect, found)

    def blocks() -> Iterator[Block]:
        for number, block in enumerate(_whole_records(name, source.stream, dialect)):
            yield _Unparsed(parser, block, header=bool(headers) and number == 0)

    return Inventory(
        name=name,
        headers={role: headers[at] for role, at in found.items()} if headers else {},
        blocks=blocks,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How cells are told apart: one separator, `width` cells in the first record."""

    separator: str
    width: int
    preamble: int
    """Lines before the first record: blank ones and `sep=;`."""


def _sniff(source: streams.Opened) -> tuple[_Dialect, list[list[str]]]:
    """The dialect of a text, and its first records."""
    whole_lines = source.head.rpartition(b"\n")[0] or source.head
    lines = _utf8(whole_lines).decode().splitlines(keepends=True)
    start = _first_filled(lines, 0)
    hint = _SEPARATOR_HINT.fullmatch(lines[start]) if start < len(lines) else None
    if hint:
        start = _first_filled(lines, start + 1)
    if start == len(lines):
        raise empty(source.name)
    text = "".join(lines[start:])
    candidates = {separator: _records(text, separator) for separator in (hint[1] if hint else SEPARATORS)}
    separator, records = max(candidates.items(), key=lambda candidate: _agreement(candidate[1]))
    return _Dialect(separator, len(records[0]), start), records


def _first_filled(lines: list[str], start: int) -> int:
    return next((at for at in range(start, len(lines)) if lines[at].strip()), len(lines))


def _records(text: str, separator: str) -> list[list[str]]:
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if _is_row(record):
                records.append(record)
            if len(records) == SAMPLE:
                break
    except csv.Error:
        pass  # a giant cell: what came before it is enough to tell the dialect
    return records or [[text]]


def _agreement(records: list[list[str]]) -> tuple[bool, float, int]:
    """How well a separator explains records: it separates, and into as many cells everywhere."""
    width = len(records[0])
    alike = sum(len(record) == width for record in records) / len(records)
    return width > 1, round(alike, 1), width


def _is_row(record: list[str]) -> bool:
    """A blank line is no row; a line of separators alone is one, if an empty one."""
    return len(record) > 1 or bool(record and record[0].strip())


def _whole_records(name: str, stream: BinaryIO, dialect: _Dialect) -> Iterator[bytes]:
    """Cut a stream at ends of records."""
    for _ in range(dialect.preamble):
        stream.readline()
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        block = rest + chunk
        cut = _end_of_records(block, dialect.separator.encode())
        if not cut and len(block) > MAX_RECORD_BYTES:
            raise _unclosed(name, block[:60].decode("utf-8", "replace"))
        if cut:
            yield block[:cut]
        rest = block[cut:]
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _end_of_records(block: bytes, separator: bytes) -> int:
    """Length of the longest start of `block` that ends with a record; 0 where there is none."""
    cut = block.rfind(b"\n") + 1
    if block.count(b'"', 0, cut) % 2 == 0:
        return cut
    edge = re.escape(separator) + rb"\r\n"
    quoted = rb'(?<![^%b])"(?:[^"]|"")*"(?![^%b])' % (edge, edge)
    blanked = re.sub(quoted, lambda cell: b" " * len(cell[0]), block[:cut])
    opening = re.search(rb'(?<![^%b])"' % edge, blanked)
    if opening is None:
        return cut  # a quote inside an unquoted cell, such as 5", opens nothing
    return blanked.rfind(b"\n", 0, opening.start()) + 1


def _unclosed(name: str, where: str) -> InventoryError:
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
    """Parses blocks of whole records into the wanted columns, and SHORT where any row is uneven."""

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
            rows = self._even(marked, block.count(b"\n"))
            return self._uneven(marked) if rows is None else rows
        except pl.exceptions.PolarsError:
            return self._slowly(block)

    @property
    def _mark(self) -> str:
        return self.dialect.separator + MARK

    def _scan(self, marked: bytes) -> pl.LazyFrame:
        return pl.scan_csv(
            marked,
            has_header=False,
            separator=self.dialect.separator,
            schema={str(position): pl.String for position in range(self.dialect.width + 1)},
            empty_string_is_null=False,
            truncate_ragged_lines=True,
        )

    def _even(self, marked: bytes, lines: int) -> pl.DataFrame | None:
        """The wanted cells of a block in which every line is a row as wide as the first; else None."""
        last = pl.col(str(self.dialect.width)) == MARK
        cells = [pl.col(str(at)).alias(role) for role, at in self.columns.items()]
        rows = self._scan(marked).select(*cells, last.alias("even")).collect(engine="streaming")
        blank_cells = self.dialect.width == 1  # there, a blank line is as wide as a row
        if rows.height != lines or blank_cells or not rows["even"].all():
            return None
        return rows.drop("even")

    def _uneven(self, marked: bytes) -> pl.DataFrame:
        """A block with short, long, blank or many-line rows, told apart by where the mark is."""
        rows = self._scan(marked).collect(engine="streaming")
        in_column = [pl.when(pl.col(name) == MARK).then(at) for at, name in enumerate(rows.columns)]
        width = pl.coalesce(*in_column, self.dialect.width)
        blank = (width <= 1) & (pl.col("0").str.strip_chars().is_in(["", MARK]))
        cell = pl.col(pl.String)
        return (
            rows.select(
                *(pl.col(str(at)).alias(role) for role, at in self.columns.items()),
                (width < self.dialect.width).alias(SHORT),
                blank.alias("blank"),
            )
            .filter(~pl.col("blank"))
            .select(
                pl.when(cell != MARK).then(cell.str.replace_all(self._mark + "\n", "\n", literal=True)), SHORT
            )
        )

    def _slowly(self, block: bytes) -> pl.DataFrame:
        """What polars finds malformed, by Python's csv module: it takes a quote inside a cell for text."""
        text = block.decode()
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.dialect.separator, strict=True)
        rows: list[list[str]] = []
        lines = 0
        try:
            for row in reader:
                lines = reader.line_num
                rows.extend([row] if _is_row(row) else [])
        except csv.Error:
            raise _unclosed(self.name, "".join(text.split("\n")[lines : lines + 1])[:60]) from None
        cells = [[row[at] if at < len(row) else None for row in rows] for at in self.columns.values()]
        short = pl.Series(SHORT, [len(row) < self.dialect.width for row in rows], dtype=pl.Boolean)
        named = zip(self.columns, cells, strict=True)
        return pl.DataFrame([*(pl.Series(role, values, pl.String) for role, values in named), short])


def _utf8(block: bytes) -> bytes:
    """The block as UTF-8; what is not UTF-8 already is taken for Windows-1252, or else Latin-1."""
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

"""Reads inventories whose columns have types: parquet and Arrow IPC files and streams."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import scans
from batchlic.reader.columns import matching
from batchlic.reader.formats import arrow_stream
from batchlic.reader.inputs import streams
from batchlic.reader.inputs.encodings import decoded
from batchlic.reader.inputs.frames import Frame
from batchlic.reader.inventory import WHOLE, Block, Inventory, is_too_short
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role, kept_cell

BLOCK_ROWS = 100_000
SAMPLE = 200
"""Rows by which columns are told."""
PARQUET, ARROW = b"PAR1", b"ARROW1"


def from_file(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open a parquet or Arrow IPC file."""
    stored = streams.in_a_file(source)
    file = source.files.enter_context(stored.open("rb")) if isinstance(stored, Path) else stored
    is_parquet = source.head.startswith(PARQUET)
    if _are_joined(file) if is_parquet else arrow_stream.are_joined(file):
        raise arrow_stream.joined_error(source.name)
    file.seek(0)
    with _readable(source.name):
        scan = scans.scan_parquet(stored) if is_parquet else scans.scan_ipc(stored)
        return _inventory(source.name, scan, options)


def _are_joined(file: IO[bytes]) -> bool:
    """Whether parquet files were joined to one, of which polars would read rows of the first one only.

    The end of a file is its footer, the length of the footer (4 bytes) and PAR1. A footer begins with 0x15.
    """
    kept, place = b"", 0
    while chunk := file.read(streams.CHUNK_BYTES):
        content = kept + chunk
        at = -1
        while (at := content.find(PARQUET + PARQUET, at + 1)) >= 0:
            end = place - len(kept) + at - 4
            here = file.tell()
            file.seek(max(0, end))
            footer = end - int.from_bytes(file.read(4), "little")
            file.seek(max(0, footer))
            is_end = footer >= len(PARQUET) and file.read(1) == b"\x15"
            file.seek(here)
            if is_end:
                return True
        place += len(chunk)
        kept = content[-7:]
    return False


def from_stream(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open an Arrow IPC stream."""
    return from_frames(source.name, arrow_stream.frames(source.name, source.stream), options)


def from_frames(
    name: str, frames: Iterator[pl.DataFrame], options: ReadOptions, *, is_query: bool = False
) -> Inventory:
    """An inventory of frames with the same columns. The first one has no rows."""
    with _readable(name):
        empty = next(frames)
        first = next(frames, empty)
    read = _columns(name, first.lazy(), options)

    def blocks() -> Iterator[Block]:
        with _readable(name):
            for frame in chain([first], frames):
                yield partial(read.block, name, frame.lazy().select(read.cells), frame.lazy())

    return replace(read.inventory(name, blocks), is_query=is_query)


def from_frame(frame: Frame, options: ReadOptions) -> Inventory:
    """Open a frame of a program."""
    with _readable(frame.name):
        return _inventory(frame.name, scans.scan_parquet(frame.path), options)


def from_store(name: str, options: ReadOptions) -> Inventory | None:
    """Open a parquet or Arrow IPC object in a cloud store; None if the object is neither of them."""
    for scan in (pl.scan_parquet, pl.scan_ipc):  # noqa: TID251 - an address, not a path
        try:
            return _inventory(name, scan(name), options)
        except (pl.exceptions.PolarsError, OSError):
            continue
    return None


def _inventory(name: str, frame: pl.LazyFrame, options: ReadOptions) -> Inventory:
    read = _columns(name, frame, options)

    def blocks() -> Iterator[Block]:
        cells = frame.select(read.cells)
        start = 0
        with _readable(name):
            for block in cells.collect_batches(
                chunk_size=BLOCK_ROWS, maintain_order=True, engine="streaming"
            ):
                yield partial(read.block, name, block.lazy(), frame.slice(start, block.height))
                start += block.height

    return read.inventory(name, blocks)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns that are read: their headers by role, their cells as text, and notes.

    `whole`: all cells of a row, one a line. `kept`: the names of the columns to keep. `available`: all
    headers.
    """

    headers: Mapping[Role, str]
    cells: list[pl.Expr]
    whole: pl.Expr
    notes: tuple[str, ...]
    kept: Collection[str]
    available: Sequence[str]

    def inventory(self, name: str, blocks: Callable[[], Iterator[Block]]) -> Inventory:
        """The inventory with these columns."""
        return Inventory(
            name=name,
            roles=self.headers.keys(),
            headers=self.headers,
            blocks=blocks,
            notes=self.notes,
            kept=self.kept,
            available=self.available,
        )

    def block(self, name: str, cells: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        """A block of cells, with WHOLE if one of its rows lacks an identifier.

        `rows`: the same rows with all their columns.
        """
        are_short = map(is_too_short, (pl.col(role) for role in IDENTIFIERS if role in self.headers))
        with _readable(name):
            block = cells.collect()
            lack_identifier = block.select(pl.all_horizontal(are_short)).to_series()
            if not lack_identifier.any():
                return block
            whole = rows.select(self.whole).collect().to_series()
        return block.with_columns(pl.when(lack_identifier).then(whole).alias(WHOLE))


def _columns(name: str, table: pl.LazyFrame, options: ReadOptions) -> _Columns:
    """The columns of a typed table. The fields of a struct are columns with paths: `device.imei`."""
    schema = table.collect_schema()
    found_leaves = {leaf.header: (leaf.cell, leaf.dtype) for leaf in leaves(schema)}
    headers = list(found_leaves)
    nested = {at for at, header in enumerate(headers) if header not in schema}
    texts = [
        pl.lit("").alias(str(at)) if dtype.is_nested() else as_text(cell, dtype).fill_null("").alias(str(at))
        for at, (cell, dtype) in enumerate(found_leaves.values())
    ]
    sample = table.head(SAMPLE).select(texts).collect().rows()
    found = matching.by_header(name, headers, options, nested=nested, sample=sample)
    if not found.has_identifier:
        raise matching.no_identifier_error(name, headers, sample)
    read = {role: headers[position] for role, position in found.positions.items()}
    for role, header in read.items():
        dtype = found_leaves[header][1]
        if dtype.is_nested():
            raise InventoryError(
                f"{name}: the column {header!r} ({role}) has cells of type {dtype}, not text or numbers: "
                f"name another one with --column {role}=HEADER, or leave it out with --column {role}=-"
            )
    cells = [as_text(*found_leaves[header]).alias(role) for role, header in read.items()]
    kept = {kept_name: headers[at] for kept_name, at in matching.kept(name, headers, options).items()}
    for kept_name, header in kept.items():
        cell, dtype = found_leaves[header]
        if dtype.is_nested():
            raise InventoryError(
                f"{name}: the column {header!r} has cells of type {dtype}, which can't be kept: remove "
                f"{kept_name!r} from the columns to keep"
            )
        cells.append(_unchanged(cell, dtype).alias(kept_cell(kept_name)))
    texts = [as_text(cell, dtype) for cell, dtype in found_leaves.values() if not dtype.is_nested()]
    whole = pl.concat_str(texts, separator="\n", ignore_nulls=True)
    return _Columns(read, cells, whole, found.notes, kept, headers)


class Leaf(NamedTuple):
    """A column, or a field of a struct under its path (`device.imei`)."""

    header: str
    cell: pl.Expr
    dtype: pl.DataType


def leaves(schema: pl.Schema) -> Iterator[Leaf]:
    """The columns that are no structs, and the fields of those that are."""
    for column, dtype in schema.items():
        yield from _leaves(column, pl.col(column), dtype)


def _leaves(header: str, cell: pl.Expr, dtype: pl.DataType) -> Iterator[Leaf]:
    if not isinstance(dtype, pl.Struct):
        yield Leaf(header, cell, dtype)
        return
    for field in dtype.fields:
        inner = field.dtype if isinstance(field.dtype, pl.DataType) else field.dtype()
        yield from _leaves(f"{header}.{field.name}", cell.struct.field(field.name), inner)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise InventoryError if the file is damaged."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _damaged_error(name, error) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of polars, whose class can't be imported
            raise
        raise _damaged_error(name, error) from None


def _damaged_error(name: str, error: BaseException) -> InventoryError:
    reason = str(error).strip().split("\n")[0][:200]
    return InventoryError(f"{name}: the file is damaged, or of a kind that batchlic can't read: {reason}")


def _unchanged(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A typed cell as text (String): whole floats without a fraction, as spreadsheets write them; times as in
    ISO 8601 with a space, and a fraction of a second only if there is one."""
    if isinstance(dtype, pl.Datetime):
        return cell.dt.to_string("%Y-%m-%d %H:%M:%S%.f" + ("%:z" if dtype.time_zone else ""))
    if dtype == pl.Time:
        return cell.dt.to_string("%H:%M:%S%.f")
    if dtype.is_float():
        is_whole = (cell.abs() <= EXACT) & (cell == cell.round())
        text = pl.when(is_whole).then(cell.cast(pl.Int64, strict=False).cast(pl.String))
        return text.when(cell.is_not_nan()).then(cell.cast(pl.String))
    if dtype == pl.Binary or isinstance(dtype, pl.Duration):
        return as_text(cell, dtype)
    return cell.cast(pl.String, strict=False)


EXACT = 2.0**53
"""Up to here, each whole number is a float."""


def as_text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A typed cell as text (String).

    A float up to 2**53 (2**24 for Float32) becomes the text of an integer, because such floats are exact. A
    larger float has lost digits: its text gets an exponent, so that the rules reject the cell, and only the
    digits that the float has kept, because a sync keeps the licenses of all devices that begin with them. A
    decimal number is exact: its text has no fraction of zeros.
    """
    if dtype == pl.Binary:
        return cell.map_batches(_decoded, return_dtype=pl.String, is_elementwise=True)
    if isinstance(dtype, pl.Duration):
        return cell.dt.to_string("iso")
    if isinstance(dtype, pl.Decimal):
        return cell.cast(pl.String).str.replace(r"\.0+$", "")
    if not dtype.is_float():
        return cell.cast(pl.String)
    exact, kept_digits = (2.0**24, 6) if dtype == pl.Float32 else (EXACT, 15)  # FLT_DIG and DBL_DIG of C
    size = cell.cast(pl.Float64).abs()
    whole = (size <= exact) & (cell == cell.round())
    exponent = size.log10().floor().cast(pl.Int64, strict=False)
    mantissa = (cell.cast(pl.Float64) / pl.lit(10.0).pow(exponent)).round(kept_digits - 1).cast(pl.String)
    return (
        pl.when(whole)
        .then(cell.cast(pl.Int64, strict=False).cast(pl.String))
        .when(cell.is_finite() & (size > exact))
        .then(pl.concat_str(mantissa, pl.lit("E+"), exponent))
        .when(cell.is_not_nan())
        .then(cell.cast(pl.String))
    )


def _decoded(cells: pl.Series) -> pl.Series:
    """Bytes as text, in the encodings of text files."""
    try:
        return cells.cast(pl.String)
    except pl.exceptions.PolarsError:  # no UTF-8
        return pl.Series(cells.name, [cell if cell is None else decoded(cell) for cell in cells], pl.String)

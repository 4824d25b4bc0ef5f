"""Reads inventories whose columns have types: parquet and Arrow IPC."""

from collections.abc import Iterator
from functools import partial

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import scans, streams
from batchlic.reader.inventory import Block, Inventory, columns_of
from batchlic.reader.options import ReadOptions

BLOCK_ROWS = 100_000


def from_file(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open a parquet or Arrow IPC file."""
    scan = scans.scan_parquet if source.head.startswith(b"PAR1") else scans.scan_ipc
    try:
        return _inventory(source.name, scan(streams.in_a_file(source)), options)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged_error(source.name, error) from None


def from_store(name: str, options: ReadOptions) -> Inventory | None:
    """Open a parquet or Arrow IPC object in a cloud store; None if the object is neither of them."""
    for scan in (pl.scan_parquet, pl.scan_ipc):  # noqa: TID251 - an address, not a path
        try:
            return _inventory(name, scan(name), options)
        except (pl.exceptions.PolarsError, OSError):
            continue
    return None


def _inventory(name: str, frame: pl.LazyFrame, options: ReadOptions) -> Inventory:
    schema = frame.collect_schema()
    headers = schema.names()
    positions = columns_of(name, headers, options)
    cells = [
        as_text(pl.col(headers[position]), schema[headers[position]]).alias(role)
        for role, position in positions.items()
    ]
    return Inventory(
        name=name,
        headers={role: headers[position] for role, position in positions.items()},
        blocks=partial(_blocks, name, frame.select(cells)),
    )


def _blocks(name: str, cells: pl.LazyFrame) -> Iterator[Block]:
    try:
        for block in cells.collect_batches(chunk_size=BLOCK_ROWS, maintain_order=True, engine="streaming"):
            yield block.clone
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged_error(name, error) from None


def _damaged_error(name: str, error: Exception) -> InventoryError:
    reason = str(error).strip().split("\n")[0][:200]
    return InventoryError(f"{name}: the file is damaged, or of a kind that batchlic can't read: {reason}")


def as_text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A typed cell as text (String).

    A float up to 2**53 (2**24 for Float32) becomes the text of an integer, because such floats are exact. A
    larger float has lost digits: its text gets an exponent, so that the rules reject the cell.
    """
    if dtype == pl.Binary:
        return cell.cast(pl.String, strict=False)
    if not dtype.is_float():
        return cell.cast(pl.String)
    exact = 2.0**24 if dtype == pl.Float32 else 2.0**53
    size = cell.cast(pl.Float64).abs()
    whole = (size <= exact) & (cell == cell.round())
    exponent = size.log10().floor().cast(pl.Int64, strict=False)
    mantissa = (cell.cast(pl.Float64) / pl.lit(10.0).pow(exponent)).cast(pl.String)
    return (
        pl.when(whole)
        .then(cell.cast(pl.Int64, strict=False).cast(pl.String))
        .when(cell.is_finite() & (size > exact))
        .then(pl.concat_str(mantissa, pl.lit("E+"), exponent))
        .when(cell.is_not_nan())
        .then(cell.cast(pl.String))
    )

"""Stores the rows of a frame, so that they can be read like those of a file, more than once."""

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import polars as pl

from batchlic.atomic import is_disk_full
from batchlic.errors import InventoryError, StoppedEarly
from batchlic.reader.formats.typed import BLOCK_ROWS, as_text, leaves
from batchlic.reader.inputs.frames import Frame
from batchlic.reader.scans import scan_parquet


@runtime_checkable
class ArrowStream(Protocol):
    """Rows that any library can hand over: a DataFrame of pandas, a relation of DuckDB, a table of pyarrow.

    See https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html.
    """

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows as a PyCapsule of an Arrow C stream."""


def stored(frame: pl.DataFrame | pl.LazyFrame | ArrowStream, name: str, path: Path) -> Frame:
    """Write the rows of a frame to the parquet file `path`. `name` is what to call the frame.

    A LazyFrame is written as it is computed, so that memory does not grow with its rows. Raises
    InventoryError if the frame can't be computed or handed over, and StoppedEarly if the disk is full.
    """
    try:
        rows = frame if isinstance(frame, pl.DataFrame | pl.LazyFrame) else pl.DataFrame(_Stream(frame))
        rows.lazy().sink_parquet(path, compression="zstd", compression_level=1, maintain_order=True)
    except ImportError as error:  # pandas hands its rows over by pyarrow
        raise InventoryError(f"{name}: its rows can't be handed over: {error}") from error
    except Exception as error:
        if is_disk_full(error):
            raise StoppedEarly(
                f"{name}: its rows can't be stored in {path.parent.parent}: the disk is full. Free some "
                "space, or name a folder on another disk with TMPDIR, then run again"
            ) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InventoryError(f"{name}: its rows can't be computed or stored: {reason}") from error
    size, sha256 = _fingerprint(path)
    return Frame(name=name, path=path, size=size, sha256=sha256)


class _Stream:
    """Nothing but the stream of an object: polars has other ways to read those of some libraries."""

    def __init__(self, rows: ArrowStream) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)


def _fingerprint(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of the text of all cells that an inventory can have, in the order of the rows.

    The bytes of the file would not do: they depend on how the frame is cut into chunks.
    """
    rows = scan_parquet(path)
    found = [leaf for leaf in leaves(rows.collect_schema()) if not leaf.dtype.is_nested()]
    digest = hashlib.sha256("\0".join(leaf.header for leaf in found).encode())
    size = 0
    texts = [as_text(leaf.cell, leaf.dtype).alias(str(at)) for at, leaf in enumerate(found)]
    blocks = rows.select(texts).collect_batches(
        chunk_size=BLOCK_ROWS, maintain_order=True, engine="streaming"
    )
    for block in blocks if texts else ():
        content = block.write_csv(include_header=False).encode()
        size += len(content)
        digest.update(content)
    return size, digest.hexdigest()

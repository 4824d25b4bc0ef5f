"""Reads and validates inventories block by block, several blocks at once, in the order of their rows."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import polars as pl

from batchlic.reader.inventory import Block, Inventory
from batchlic.reader.options import ReadOptions
from batchlic.reader.validation.validator import ValidatedBlock, Validator

MAX_THREADS = 4
"""Blocks validated at once. More blocks need memory and add little speed: polars has its own threads."""


def validated_blocks(inventory: Inventory, options: ReadOptions) -> Iterator[ValidatedBlock]:
    """Yield all rows of an inventory, validated, block by block. Only a few blocks are in memory."""
    validator = Validator(options, inventory.headers)
    constants = inventory.constants
    return _map_in_threads(lambda block: validator(_with_constants(block(), constants)), inventory.blocks())


def _with_constants(block: pl.DataFrame, constants: Mapping[str, str]) -> pl.DataFrame:
    """The block with the constant cells in place of absent or empty ones."""
    return block.with_columns(
        pl.coalesce(pl.col(name).replace("", None), pl.lit(cell)).alias(name)
        if name in block.columns
        else pl.lit(cell).alias(name)
        for name, cell in constants.items()
    )


def _map_in_threads(
    validate: Callable[[Block], ValidatedBlock], blocks: Iterable[Block]
) -> Iterator[ValidatedBlock]:
    """Map in threads, and yield in order. At most one block per thread waits. Polars releases the GIL."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pending: deque[Future[ValidatedBlock]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            pending.append(pool.submit(validate, block))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

"""Inventories read and judged block by block, a few at a time side by side, in the order of their rows."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from batchlic.reader.inventory import Block, Inventory
from batchlic.reader.options import ReadOptions
from batchlic.reader.validation import Validated, Validator

MAX_THREADS = 4
"""Blocks worked on at once; more would cost memory for little, as polars has threads of its own."""


def read(inventory: Inventory, options: ReadOptions) -> Iterator[Validated]:
    """Yield all rows of an inventory, judged, block by block; memory holds a few blocks of them."""
    judge = Validator(options, inventory.headers)
    return _side_by_side(lambda block: judge(block()), inventory.blocks())


def _side_by_side(judge: Callable[[Block], Validated], blocks: Iterable[Block]) -> Iterator[Validated]:
    """Map in threads, in order, at most one block per thread waiting: polars releases the GIL."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pending: deque[Future[Validated]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            pending.append(pool.submit(judge, block))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

"""Takes from several sequences, one item of each after another."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def round_robin(sequences: Iterable[Iterable[T]], *, most: int) -> Iterator[T]:
    """One item of each sequence after another, in their order.

    At most `most` sequences are open at a time. Where one ends, the next one that has not begun comes last.
    """
    left = iter(sequences)
    open_ones = deque(map(iter, islice(left, most)))
    while open_ones:
        sequence = open_ones.popleft()
        try:
            item = next(sequence)
        except StopIteration:
            open_ones.extend(map(iter, islice(left, 1)))
            continue
        yield item
        open_ones.append(sequence)

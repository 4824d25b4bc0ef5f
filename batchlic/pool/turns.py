"""Takes from several sequences by turns."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def take_turns(sequences: Iterable[Iterable[T]], *, most: int) -> Iterator[T]:
    """One item of each sequence after another, in their order (round robin).

    At most `most` sequences take turns at a time. Where one ends, the next one that has not begun comes last.
    """
    left = iter(sequences)
    turns = deque(map(iter, islice(left, most)))
    while turns:
        sequence = turns.popleft()
        try:
            item = next(sequence)
        except StopIteration:
            turns.extend(map(iter, islice(left, 1)))
            continue
        yield item
        turns.append(sequence)

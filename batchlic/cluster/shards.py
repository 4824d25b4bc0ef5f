"""Cuts a plan into shards: contiguous ranges of its batches, each sent by one process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

SHARDS_PER_WORKER = 4
"""Most shards a worker, if there are many accounts: the others do not wait for those of slow accounts."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Batches that one process sends. `parts`: the shards of its account, of which it has a part."""

    batches: range
    parts: int = 1


def cut(accounts: Sequence[tuple[str, range]], workers: int, *, may_split: bool = True) -> list[Shard]:
    """Shards for so many workers. `accounts` are the batches of each account, which follow each other.

    No shard has more than its share of all batches. An account with more is cut into parts of about the same
    size; the batches of the other accounts stay together. Without `may_split`, no account is cut.
    """
    total = sum(len(batches) for _, batches in accounts)
    wanted = max(workers, min(SHARDS_PER_WORKER * workers, len(accounts)))
    most = max(1, ceil(total / wanted))
    return list(_shards([batches for _, batches in accounts], most if may_split else None, most))


def _shards(accounts: Sequence[range], split_above: int | None, most: int) -> Iterator[Shard]:
    open_batches = range(0)
    for batches in accounts:
        if open_batches and len(open_batches) + len(batches) > most:
            yield Shard(open_batches)
            open_batches = range(0)
        if split_above is not None and len(batches) > split_above:
            parts = ceil(len(batches) / split_above)
            for part in range(parts):
                yield Shard(batches[len(batches) * part // parts : len(batches) * (part + 1) // parts], parts)
        else:
            open_batches = range(open_batches.start if open_batches else batches.start, batches.stop)
    if open_batches:
        yield Shard(open_batches)

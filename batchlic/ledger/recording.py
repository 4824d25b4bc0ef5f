"""Puts the records of a run in the place of its earlier ones, within the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import polars as pl

from batchlic.ledger.catalog import Block, Catalog
from batchlic.ledger.numbering import keep_numbers
from batchlic.ledger.packing import PackedRecords, read_identifiers
from batchlic.ledger.pairing import complete, complete_apart, matching_pairs


def replace_records(
    catalog: Catalog,
    run: int,
    recorded: Sequence[PackedRecords],
    pairs: Callable[[], Iterable[pl.DataFrame]],
) -> None:
    """Replace all records of the run with that number.

    Records that have only one identifier are completed where another run of the same carrier gives both. The
    other way round, the run's records and `pairs` complete those of other runs.
    """
    others = _blocks_of_other_runs(catalog, run)
    completed = _complete_from_others(catalog, others, recorded)
    _complete_others(catalog, run, others, completed, pairs)
    _replace(catalog, run, completed)


def _blocks_of_other_runs(catalog: Catalog, run: int) -> list[Block]:
    """The blocks of other runs against the same carrier, those of the newest run first."""
    runs, carrier = catalog.runs, catalog.runs[run].carrier
    others = [
        block for block in catalog.blocks.values() if block.run != run and runs[block.run].carrier == carrier
    ]
    return sorted(others, key=lambda block: (runs[block.run].begun_at, block.number), reverse=True)


def _complete_from_others(
    catalog: Catalog, others: Iterable[Block], recorded: Sequence[PackedRecords]
) -> list[PackedRecords]:
    """The run's records with identifiers from those of other runs; the newest other run counts."""
    if not any(packed.unpaired for packed in recorded):
        return list(recorded)
    contents = (catalog.content(block) for block in others if block.unpaired < block.devices)
    pairs = matching_pairs(recorded, map(read_identifiers, contents))
    return [complete(packed, pairs) for packed in recorded]


def _complete_others(
    catalog: Catalog,
    run: int,
    others: Sequence[Block],
    recorded: Sequence[PackedRecords],
    pairs: Callable[[], Iterable[pl.DataFrame]],
) -> None:
    """Complete the records of other runs.

    A completed record gets a new number, because it is new to runs that knew the device by the other
    identifier. It is not new to the run that completed it.
    """
    unpaired = [(block, catalog.packed(block)) for block in reversed(others) if block.unpaired]
    if not unpaired:
        return
    own_pairs = (read_identifiers(packed.content) for packed in recorded)
    matching = matching_pairs((packed for _, packed in unpaired), chain(own_pairs, pairs()))
    for block, packed in unpaired:
        unchanged, completed = complete_apart(packed, matching)
        if completed is None:
            continue
        catalog.delete_block(block)
        if unchanged is not None:
            catalog.add_block(unchanged, number=block.number, run=block.run)
        catalog.add_block(completed, run=block.run, completed_by=run)


def _replace(catalog: Catalog, run: int, recorded: Sequence[PackedRecords]) -> None:
    """Replace the run's records; what it repeats keeps its number and by whom it was completed."""
    numbered = list(keep_numbers(catalog, run, recorded))
    earlier = {block.number: block for block in catalog.blocks.values() if block.run == run}
    for block in earlier.values():
        catalog.delete_block(block)
    for number, packed in numbered:
        completed_by = None if number is None else earlier[number].completed_by
        catalog.add_block(packed, number=number, run=run, completed_by=completed_by)

"""The canary of a plan: a few devices that are sent first, in batches of their own.

It has devices of as many accounts and SKUs as possible, and of a group in equal distances of its order: so it
has devices of all models. In the plan, its batches come first: they are phase 1, and all others are phase 2.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TypeAlias

import polars as pl

from batchlic.chunker.files import (
    NOT_EXCLUDED,
    PLANNED,
    PlanLayout,
    as_planned,
    by_rank,
    excluded_rows,
    planned_rows,
    unlicensed_spool,
    write_rejects,
)
from batchlic.chunker.groups import PlanGroup
from batchlic.chunker.kept import KeptInPlan
from batchlic.chunker.schema import PHASE, write_plan_file
from batchlic.chunker.status import DeviceStatus
from batchlic.figures import counted
from batchlic.reader.fleet import Fleet
from batchlic.reader.spool import Spool
from batchlic.reader.streaming import lazy_frame

CanarySize: TypeAlias = Callable[[int], int]
"""Gets the number of devices to send; returns how many of them the canary has."""


def spread(groups: Sequence[PlanGroup], size: int) -> list[int]:
    """How many of `size` canary devices each group has; `size` is at most the number of all devices.

    Each group has one, the others are in proportion to the groups. If there are more groups than devices,
    groups that add an account or a SKU come first, and then the largest ones.
    """
    first = _most_varied(groups)[:size]
    shares = [int(at in set(first)) for at in range(len(groups))]
    open_devices = [max(0, group.devices - 1) for group in groups]
    left, total = size - len(first), max(1, sum(open_devices))
    exact = [left * devices for devices in open_devices]
    shares = [share + product // total for share, product in zip(shares, exact, strict=True)]
    by_remainder = sorted(range(len(groups)), key=lambda at: (-(exact[at] % total), at))
    for at in by_remainder[: size - sum(shares)]:
        shares[at] += 1
    return shares


def _most_varied(groups: Sequence[PlanGroup]) -> list[int]:
    """The places of the groups with devices: those first whose account and SKU, or one of them, are new."""
    largest = sorted(range(len(groups)), key=lambda at: (-groups[at].devices, at))
    left = [at for at in largest if groups[at].devices]
    accounts: set[str] = set()
    skus: set[str] = set()
    chosen: list[int] = []
    for least_new in (2, 1, 0):
        later = []
        for at in left:
            account, sku = groups[at].account_name, groups[at].sku_number
            if (account not in accounts) + (sku not in skus) < least_new:
                later.append(at)
                continue
            chosen.append(at)
            accounts.add(account)
            skus.add(sku)
        left = later
    return chosen


@dataclass(frozen=True, slots=True)
class CanaryLayout:
    """The two phases of a plan: `devices` of each group, and then the others.

    `first_batches` has the number of the first batch of each group, for each phase.
    """

    layout: PlanLayout
    devices: Sequence[int]
    first_batches: tuple[Sequence[int], Sequence[int]]

    @classmethod
    def of(cls, layout: PlanLayout, size: CanarySize) -> "CanaryLayout | None":
        """The layout of a plan with a canary; None if the canary has no device, or all of them."""
        total = sum(group.devices for group in layout.planned)
        found = size(total)
        if not 0 < found < total:
            return None
        shares = spread(layout.planned, found)
        batches = [
            *(_batches(share, layout) for share in shares),
            *(
                _batches(group.devices - share, layout)
                for group, share in zip(layout.planned, shares, strict=True)
            ),
        ]
        starts = list(accumulate(batches, initial=1))
        middle = len(shares)
        planned = [
            replace(group, batches=batches[at] + batches[middle + at])
            for at, group in enumerate(layout.planned)
        ]
        return cls(replace(layout, planned=planned), shares, (starts[:middle], starts[middle:-1]))

    @property
    def note(self) -> str:
        """The size of the canary, for the notes of the plan."""
        total = sum(group.devices for group in self.layout.planned)
        return f"canary: {sum(self.devices):,} of {counted(total, 'device')} are sent first"

    def rows(self, rows: pl.DataFrame, phase: int) -> pl.DataFrame:
        """The rows of a phase (columns PLANNED and PHASE), of rows with `rank` and `place`."""
        share, size = by_rank(list(self.devices)), by_rank([group.devices for group in self.layout.planned])
        product = pl.col("place") * share
        is_canary = product % size < share  # holds for `share` places out of `size`, in equal distances
        canary_before = (product + size - 1) // size
        place = product // size if phase == 1 else pl.col("place") - canary_before
        batch_id = by_rank(list(self.first_batches[phase - 1])) + place // self.layout.batch_size
        return rows.filter(is_canary if phase == 1 else ~is_canary).select(
            batch_id.cast(pl.UInt32).alias("batch_id"),
            *(name for name in PLANNED if name in rows.columns),
            NOT_EXCLUDED,
            pl.lit(phase, PHASE["phase"]).alias("phase"),
        )


def _batches(devices: int, layout: PlanLayout) -> int:
    return -(-devices // layout.batch_size)


def write_canary_files(
    fleet: Fleet, canary: CanaryLayout, excluded: Collection[DeviceStatus], *, folder: Path, scratch: Path
) -> None:
    """Write plan.parquet, with the column PHASE, and rejects.parquet, as `files.write_files` does."""
    layout, unlicensed = canary.layout, unlicensed_spool(scratch)
    kept = KeptInPlan(fleet.kept, scratch)

    def pending(phase: int, left_over: Spool | None) -> Iterator[pl.DataFrame]:
        for rows in planned_rows(fleet, layout, left_over):
            yield canary.rows(rows, phase)

    def frames() -> Iterator[pl.DataFrame]:
        no_phase = pl.lit(None, PHASE["phase"]).alias("phase")
        not_sent = (rows.with_columns(no_phase) for rows in excluded_rows(fleet, layout, excluded))
        return kept.noted(chain(pending(1, None), pending(2, unlicensed), not_sent))

    write_plan_file(folder, as_planned(lazy_frame(frames, PLANNED | PHASE)))
    kept.write(folder)
    write_rejects(fleet, unlicensed if layout.unlicensed else None, folder)

"""Makes a plan from device rows: plan.parquet, whose batches are contiguous ranges of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from batchlic.atomic import scratch_in
from batchlic.chunker.groups import Fit, PlanGroup
from batchlic.reader import ReadOptions, Source
from batchlic.reader.inputs.addresses import Downloaded

if TYPE_CHECKING:
    from batchlic.chunker.canary import CanarySize
    from batchlic.chunker.exclusion import KnownLicenses
    from batchlic.chunker.sync import SyncRules

Check: TypeAlias = Callable[[int, int], None]
"""Gets the number of rows read, and of devices among them; raises to refuse the inventories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan in figures; `rows_read` is the sum of `rejected` and `planned` (promise A).

    `planned` is the sum of `excluded`, by status, and of the devices in `groups`. `downloaded` are the
    inventories at addresses. `kept` are the columns of kept.parquet.
    """

    sources: tuple[Source, ...]
    rows_read: int
    rejected: Mapping[str, int]
    planned: int
    excluded: Mapping[str, int]
    batches: int
    groups: tuple[PlanGroup, ...]
    notes: tuple[str, ...]
    downloaded: tuple[Downloaded, ...] = ()
    kept: tuple[str, ...] = ()


def write_plan(
    inventories: Sequence[str],
    options: ReadOptions,
    *,
    batch_size: int,
    folder: Path,
    known_licenses: KnownLicenses | None = None,
    check: Check | None = None,
    fit: Fit | None = None,
    sync: SyncRules | None = None,
    canary: CanarySize | None = None,
) -> Plan:
    """Read the inventories; write plan.parquet and rejects.parquet into `folder`, each whole or not at all.

    plan.parquet (columns schema.PLAN) is sorted by account, SKU, IMEI and ICCID (nulls last). A batch is a
    contiguous range of at most `batch_size` rows of one account and SKU. Devices that `known_licenses`
    excludes come after all batches. rejects.parquet (columns schema.REJECTS) has the rejects in input order.

    `check` is called once, after all inventories are read; its devices are the rows that are not rejected.

    `fit` is called once, with the groups of devices to send, before anything is written. It returns how many
    devices of each group to plan: the first ones. The others are rejected as `no_license`, after all other
    rejects.

    With `sync`, the plan has the columns schema.SYNC, too. It also takes the license from the known devices
    that are gone from the inventories: see `sync`. `fit` gets the groups of both actions then.

    `canary` is called once, after `fit`, with the number of devices to send. Their batches come first, if not
    all devices are in the canary, and the plan has the column schema.PHASE: see `canary`. Not with `sync`.

    The columns that `options` keep go into kept.parquet, in the order of the plan, and into rejects.parquet.
    plan.parquet is the same with and without them.

    All files are a function of inventories, options, known licenses and the results of `fit` and `canary`
    (promise I).

    Raises InventoryError if an inventory can't be read, UsageError if the options contradict it, and any
    error of `check`, `fit` and `canary`. In all these cases, no file is written.
    """
    from batchlic.chunker.canary import CanaryLayout, write_canary_files  # noqa: PLC0415
    from batchlic.chunker.exclusion import exclude_known  # noqa: PLC0415 - brings polars
    from batchlic.chunker.files import PlanLayout, write_files  # noqa: PLC0415
    from batchlic.chunker.sync import write_sync_plan  # noqa: PLC0415
    from batchlic.reader.fleet import read_fleet  # noqa: PLC0415
    from batchlic.reader.validation.reasons import Reason  # noqa: PLC0415

    with scratch_in(folder) as scratch:
        fleet = read_fleet(inventories, options, scratch)
        if check is not None:
            check(fleet.rows_read, sum(fleet.targets.row_counts().values()))
        excluded = exclude_known(fleet, known_licenses) if known_licenses else {}
        if sync is not None:
            known = known_licenses
            return write_sync_plan(
                fleet, sync, known, excluded, batch_size=batch_size, fit=fit, folder=folder, scratch=scratch
            )
        layout = PlanLayout.of(fleet.targets.row_counts(), batch_size, fit)
        first = None if canary is None else CanaryLayout.of(layout, canary)
        if first is None:
            write_files(fleet, layout, excluded, folder=folder, scratch=scratch)
        else:
            layout = first.layout
            write_canary_files(fleet, first, excluded, folder=folder, scratch=scratch)
    groups = tuple(group for group in layout.planned if group.devices)
    unlicensed = {Reason.NO_LICENSE.value: layout.unlicensed} if layout.unlicensed else {}
    return Plan(
        sources=tuple(fleet.sources),
        rows_read=fleet.rows_read,
        rejected=dict(sorted({**fleet.rejected, **unlicensed}.items())),
        planned=sum(group.devices for group in groups) + sum(excluded.values()),
        excluded={status.value: excluded[status] for status in sorted(excluded)},
        batches=sum(group.batches for group in groups),
        groups=groups,
        notes=(*fleet.notes, *([] if first is None else [first.note])),
        kept=tuple(fleet.kept.schema),
        downloaded=tuple(fleet.downloaded),
    )

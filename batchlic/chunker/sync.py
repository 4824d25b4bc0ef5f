"""The plan of a sync: devices of the inventory without a license get one, and gone devices lose theirs.

A sync has two phases. Where more licenses are needed than are left, the first phase takes licenses back, and
the second one assigns them. Elsewhere, the first phase assigns. In the plan, all batches of the first phase
come first. The rows of gone devices have the source LEDGER_SOURCE; they count as rows read.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker.exclusion import EXCLUDED_MARKS, KnownLicenses
from batchlic.chunker.files import (
    PLANNED,
    PlanLayout,
    as_planned,
    excluded_rows,
    marked_rows,
    pending_rows,
    unlicensed_spool,
    write_rejects,
)
from batchlic.chunker.gone import DOUBTFUL, IRREVOCABLE, REMOVABLE, GoneDevices, find_gone
from batchlic.chunker.groups import Fit, PlanGroup
from batchlic.chunker.kept import KeptInPlan
from batchlic.chunker.plan import Plan
from batchlic.chunker.schema import SYNC, write_plan_file
from batchlic.chunker.status import DeviceStatus
from batchlic.figures import counted
from batchlic.reader import Source
from batchlic.reader.devices import PENDING
from batchlic.reader.fleet import Fleet
from batchlic.reader.spool import Spool
from batchlic.reader.streaming import lazy_frame
from batchlic.reader.targets import Target
from batchlic.reader.validation.reasons import Reason

LEDGER_SOURCE = "ledger"
"""The source of the rows of gone devices. It is the last source of a sync, even without rows."""

_NOT_ASSIGNED = 1 + max(EXCLUDED_MARKS.values())
"""The mark of device rows without a license that the job leaves without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removals:
    """How many devices the ledger has as licensed for an account and SKU, and how many are gone."""

    account_name: str
    sku_number: str
    gone: int
    licensed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRules:
    """What a sync may do.

    - `targets`: accounts and SKUs to sync beside those of the inventory.
    - `lifetime_skus`: SKUs whose licenses can't be taken back.
    - `assigns`, `removes`: whether devices get licenses, and whether they lose them.
    - `check`: gets the removals of each account and SKU; raises to refuse them.
    - `is_short`: whether fewer licenses are left than the devices of a group need. Called after `fit`.
    """

    targets: Collection[tuple[str, str]]
    lifetime_skus: Collection[str]
    assigns: bool
    removes: bool
    check: Callable[[Sequence[Removals]], None]
    is_short: Callable[[PlanGroup], bool] = lambda _: False


def write_sync_plan(
    fleet: Fleet,
    rules: SyncRules,
    known: KnownLicenses | None,
    excluded: Mapping[DeviceStatus, int],
    *,
    batch_size: int,
    fit: Fit | None,
    folder: Path,
    scratch: Path,
) -> Plan:
    """Write plan.parquet and rejects.parquet of a sync; `excluded` device rows are marked in `fleet`."""
    not_assigned = 0 if rules.assigns else _mark_not_assigned(fleet)
    targets = [(target.account_name, target.sku_number) for target in fleet.targets.row_counts()]
    targets = sorted({*targets, *rules.targets})
    found = gone = find_gone(fleet, known, targets, rules.lifetime_skus, scratch)
    if not rules.removes or fleet.cut_off:
        nothing = [0] * len(targets)
        gone = replace(gone, removable=nothing, irrevocable=nothing, doubtful=nothing)
    rules.check(
        [
            Removals(account_name=account, sku_number=sku, gone=removable, licensed=licensed)
            for (account, sku), removable, licensed in zip(
                targets, gone.removable, gone.licensed, strict=True
            )
        ]
    )
    layout = _Layout.of(fleet, gone, batch_size, fit, rules.is_short)
    assigned = sum(group.devices for group in layout.assigns.planned)
    notes = [_difference(assigned, found, known), *_left_alone(found, fleet, rules, not_assigned)]
    unlicensed = unlicensed_spool(scratch)
    kept = KeptInPlan(fleet.kept, scratch)
    rows = lazy_frame(lambda: kept.noted(_rows(fleet, layout, excluded, gone, unlicensed)), PLANNED | SYNC)
    write_plan_file(folder, as_planned(rows))
    kept.write(folder)
    write_rejects(fleet, unlicensed if layout.assigns.unlicensed else None, folder)
    return _plan(fleet, layout, gone, excluded, not_assigned=not_assigned, notes=notes)


def _mark_not_assigned(fleet: Fleet) -> int:
    """Mark the device rows that would get a license; returns their number."""
    marked = 0
    for frame in fleet.devices.frames():
        rows = frame.filter(fleet.devices.marks(frame["ordinal"]) == PENDING)
        fleet.mark(rows, _NOT_ASSIGNED)
        marked += rows.height
    return marked


def _difference(assigned: int, gone: GoneDevices, known: KnownLicenses | None) -> str:
    to_assign = f"{counted(assigned, 'device')} to assign"
    if known is None:
        return f"{to_assign}; none to remove, because there is no ledger that knows licensed devices"
    lost, licensed = sum(gone.removable) + sum(gone.irrevocable), sum(gone.licensed)
    return f"{to_assign}; {lost:,} of {counted(licensed, 'licensed device')} gone from the inventory"


def _left_alone(gone: GoneDevices, fleet: Fleet, rules: SyncRules, not_assigned: int) -> list[str]:
    """Notes about the devices with which the sync does nothing, although they differ from the inventory."""
    removable, irrevocable, doubtful = map(sum, (gone.removable, gone.irrevocable, gone.doubtful))
    notes = []
    if removable and not rules.removes:
        notes.append(f"{counted(removable, 'gone device')} not removed, because the job removes none")
    elif removable and fleet.cut_off:
        notes.append(
            f"{counted(removable, 'gone device')} not removed, because {', '.join(fleet.cut_off)} may be cut "
            "off: its last row is rejected or short, and no newline follows"
        )
    if irrevocable:
        left = counted(irrevocable, "gone device")
        notes.append(f"{left} not removed: a Lifetime license can't be taken back")
    if doubtful:
        notes.append(
            f"{counted(doubtful, 'gone device')} not removed: in doubt since an earlier run; resume or "
            "settle that run"
        )
    maybe_rejected = sum(gone.maybe_rejected)
    if maybe_rejected and rules.removes:
        devices = counted(maybe_rejected, "licensed device")
        notes.append(f"{devices} not removed: in no row of the inventory, except perhaps in rejected ones")
    if not_assigned:
        devices = counted(not_assigned, "device")
        notes.append(f"{devices} without a license left as is, because the job assigns none")
    return notes


# -- layout ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Segment:
    """Some groups of one action that are in the same phase."""

    action: Action
    phase: int
    ranks: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The layouts of both actions, and the order of their groups."""

    assigns: PlanLayout
    removals: PlanLayout
    segments: Sequence[_Segment]

    @classmethod
    def of(
        cls,
        fleet: Fleet,
        gone: GoneDevices,
        batch_size: int,
        fit: Fit | None,
        is_short: Callable[[PlanGroup], bool],
    ) -> "_Layout":
        """The layout after `fit`: groups that are short of licenses wait for the devices that lose theirs."""
        removed = {Target(*target): count for target, count in zip(gone.targets, gone.removable, strict=True)}
        removals = PlanLayout.of(removed, batch_size, action=Action.UNASSIGN)
        to_remove = [group for group in removals.planned if group.devices]

        def fit_assigns(groups: Sequence[PlanGroup]) -> Sequence[int]:
            return [] if fit is None else list(fit([*groups, *to_remove]))[: len(groups)]

        row_counts = fleet.targets.row_counts()
        assigns = PlanLayout.of(
            row_counts, batch_size, None if fit is None else fit_assigns, action=Action.ASSIGN
        )
        frees = {_target(group) for group in to_remove}
        short = {
            _target(group)
            for group in assigns.planned
            if group.devices and _target(group) in frees and is_short(group)
        }
        segments = (
            _Segment(Action.UNASSIGN, 1, _ranks(removals, short)),
            _Segment(Action.ASSIGN, 1, _ranks(assigns, short, inverted=True)),
            _Segment(Action.ASSIGN, 2, _ranks(assigns, short)),
            _Segment(Action.UNASSIGN, 2, _ranks(removals, short, inverted=True)),
        )
        return cls(*_numbered(assigns, removals, segments), segments)

    def groups(self) -> tuple[PlanGroup, ...]:
        """The groups with devices to send, in the order of their batches."""
        return tuple(
            group
            for segment in self.segments
            for group in (self.layout(segment.action).planned[rank] for rank in segment.ranks)
            if group.devices
        )

    def layout(self, action: Action) -> PlanLayout:
        """The layout of an action."""
        return self.assigns if action is Action.ASSIGN else self.removals


def _target(group: PlanGroup) -> tuple[str, str]:
    return group.account_name, group.sku_number


def _ranks(layout: PlanLayout, targets: Collection[tuple[str, str]], *, inverted: bool = False) -> list[int]:
    """The places of the groups of these targets, or of all others."""
    return [rank for rank, group in enumerate(layout.found) if (_target(group) in targets) is not inverted]


def _numbered(
    assigns: PlanLayout, removals: PlanLayout, segments: Sequence[_Segment]
) -> tuple[PlanLayout, PlanLayout]:
    """The layouts with their batches numbered in the order of the segments."""
    first: dict[Action, list[int]] = {
        Action.ASSIGN: [0] * len(assigns.planned),
        Action.UNASSIGN: [0] * len(removals.planned),
    }
    layouts = {Action.ASSIGN: assigns, Action.UNASSIGN: removals}
    following = 1
    for segment in segments:
        for rank in segment.ranks:
            first[segment.action][rank] = following
            following += layouts[segment.action].planned[rank].batches
    return (
        replace(assigns, first_batches=first[Action.ASSIGN]),
        replace(removals, first_batches=first[Action.UNASSIGN]),
    )


# -- rows -----------------------------------------------------------------------------------------------


def _rows(
    fleet: Fleet,
    layout: _Layout,
    excluded: Collection[DeviceStatus],
    gone: GoneDevices,
    unlicensed: Spool,
) -> Iterator[pl.DataFrame]:
    """All rows of the plan (columns PLANNED and SYNC)."""
    ledger_rows = 0
    for segment in layout.segments:
        planned = layout.layout(segment.action).found
        if not any(planned[rank].devices for rank in segment.ranks):
            continue
        if segment.action is Action.ASSIGN:
            rows = pending_rows(fleet, layout.assigns, unlicensed, ranks=segment.ranks)
        else:
            rows = _removed_rows(gone, layout.removals, segment.ranks, ledger_rows)
            ledger_rows += sum(gone.removable[rank] for rank in segment.ranks)
        yield from _named(rows, segment.action, segment.phase)
    yield from _named(excluded_rows(fleet, layout.assigns, excluded), Action.ASSIGN)
    not_assigned = {_NOT_ASSIGNED: DeviceStatus.SKIPPED}
    yield from _named(marked_rows(fleet, layout.assigns, not_assigned), None)
    kept = (
        (IRREVOCABLE, gone.irrevocable, DeviceStatus.SKIPPED),
        (DOUBTFUL, gone.doubtful, DeviceStatus.IN_DOUBT),
    )
    for mark, counts, status in kept:
        if sum(counts):
            rows = _kept_rows(gone, layout.removals, mark, status, ledger_rows)
            yield from _named(rows, Action.UNASSIGN)
            ledger_rows += sum(counts)


def _named(
    frames: Iterator[pl.DataFrame], action: Action | None, phase: int | None = None
) -> Iterator[pl.DataFrame]:
    names = [
        pl.lit(action and action.value, pl.String).alias("action"),
        pl.lit(phase, pl.UInt8).alias("phase"),
    ]
    for frame in frames:
        yield frame.with_columns(names)


def _removed_rows(
    gone: GoneDevices, layout: PlanLayout, ranks: Collection[int], ledger_rows: int
) -> Iterator[pl.DataFrame]:
    """The gone devices of some groups (columns PLANNED); `ledger_rows` of the ledger come before them."""
    start = 0
    for frame in gone.sorted(REMOVABLE):
        placed = frame.with_columns(layout.place(start, frame.height), *layout.target())
        start += frame.height
        rows = placed.filter(pl.col("rank").is_in(list(ranks)))
        yield _of_ledger(rows, ledger_rows, layout.batch_id(), pl.lit(None, pl.String))
        ledger_rows += rows.height


def _kept_rows(
    gone: GoneDevices, layout: PlanLayout, mark: int, status: DeviceStatus, ledger_rows: int
) -> Iterator[pl.DataFrame]:
    """The gone devices that keep their license (columns PLANNED)."""
    for frame in gone.sorted(mark):
        rows = frame.with_columns(layout.target())
        no_batch = pl.lit(None, pl.UInt32).alias("batch_id")
        yield _of_ledger(rows, ledger_rows, no_batch, pl.lit(status.value))
        ledger_rows += rows.height


def _of_ledger(rows: pl.DataFrame, before: int, batch_id: pl.Expr, held: pl.Expr) -> pl.DataFrame:
    source = pl.lit(LEDGER_SOURCE).alias("source")
    row = pl.int_range(before + 1, before + 1 + rows.height, dtype=pl.UInt32).alias("row")
    no_ordinal = pl.lit(None, pl.UInt32).alias("ordinal")
    return rows.with_columns(source, row, batch_id, held.alias("held"), no_ordinal).select(*PLANNED)


def _plan(
    fleet: Fleet,
    layout: _Layout,
    gone: GoneDevices,
    excluded: Mapping[DeviceStatus, int],
    *,
    not_assigned: int,
    notes: Sequence[str],
) -> Plan:
    """The plan in figures."""
    groups = layout.groups()
    skipped = not_assigned + sum(gone.irrevocable)
    statuses = {
        DeviceStatus.SKIPPED: excluded.get(DeviceStatus.SKIPPED, 0) + skipped,
        DeviceStatus.IN_DOUBT: excluded.get(DeviceStatus.IN_DOUBT, 0) + sum(gone.doubtful),
    }
    of_ledger = sum(map(sum, (gone.removable, gone.irrevocable, gone.doubtful)))
    left = layout.assigns.unlicensed
    return Plan(
        sources=(*fleet.sources, Source(LEDGER_SOURCE, of_ledger)),
        rows_read=fleet.rows_read + of_ledger,
        rejected=dict(
            sorted({**fleet.rejected, **({Reason.NO_LICENSE.value: left} if left else {})}.items())
        ),
        planned=sum(group.devices for group in groups) + sum(statuses.values()),
        excluded={status.value: statuses[status] for status in sorted(statuses) if statuses[status]},
        batches=sum(group.batches for group in groups),
        groups=groups,
        notes=(*fleet.notes, *notes),
        kept=tuple(fleet.kept.schema),
        downloaded=tuple(fleet.downloaded),
    )

"""Excludes devices because of the ledger: those that need no request, or must not have one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Protocol

import polars as pl

from batchlic.chunker.status import DeviceStatus
from batchlic.reader.devices import PENDING, REJECTED
from batchlic.reader.fleet import Fleet
from batchlic.reader.targets import Target
from batchlic.reader.validation.duplicates import IDENTIFIERS, repeated_values


class LicenseState(IntEnum):
    """Whether a device has the license of an account and SKU, by the records of earlier runs.

    If the records of the two identifiers of a device differ, the greater state counts: a SIM that moves to
    another device does not lead to a second license.
    """

    UNASSIGNED = 1
    IN_DOUBT = 2
    ASSIGNED = 3


NO_RECORD = 0
"""Used instead of a LicenseState for a device without a record."""


class KnownLicenses(Protocol):
    """The licenses that earlier runs recorded; the newest record of an identifier counts."""

    def records(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All records of devices under some accounts and SKUs, the oldest first.

        Columns: `rank` (UInt32), the position in `targets`; the column that `identifier` names (Int64), never
        null; `state` (UInt8), a LicenseState.
        """

    def devices(self, targets: Sequence[tuple[str, str]]) -> Iterator[pl.DataFrame]:
        """The same records as `records`, each with both identifiers if they are known: see `gone`."""

    @property
    def to_sku(self) -> str | None:
        """The new SKU of a migration, whose devices are planned under the old SKU; None in other runs."""


EXCLUDED_MARKS: dict[DeviceStatus, int] = {
    status: REJECTED + number
    for number, status in enumerate((DeviceStatus.SKIPPED, DeviceStatus.IN_DOUBT, DeviceStatus.FAILED), 1)
}
"""The mark of excluded device rows, by the status that they have in the plan."""


def exclude_known(fleet: Fleet, known_licenses: KnownLicenses) -> dict[DeviceStatus, int]:
    """Mark the device rows that are planned, but in no batch. Returns their number by status."""
    targets = list(fleet.targets.row_counts())
    to_sku = known_licenses.to_sku
    new_targets = [replace(target, sku_number=to_sku) for target in targets] if to_sku else targets
    new_states = _license_states(fleet, known_licenses, new_targets)
    no_records = pl.zeros(fleet.rows_read, dtype=pl.UInt8, eager=True)
    old_states = _license_states(fleet, known_licenses, targets) if to_sku else no_records
    excluded: Counter[int] = Counter()
    for frame in fleet.devices.frames():
        ordinals = frame["ordinal"]
        rows = frame.select(
            "ordinal",
            "target_code",
            new_state=new_states.gather(ordinals),
            old_state=old_states.gather(ordinals),
        ).filter(fleet.devices.marks(ordinals) == PENDING)
        marked = rows.with_columns(mark=exclusion_mark(pl.col("new_state"), pl.col("old_state")))
        marked = marked.filter(pl.col("mark") != PENDING)
        fleet.mark(marked, marked["mark"])
        excluded.update(dict(marked["mark"].value_counts().iter_rows()))
    return {status: excluded[mark] for status, mark in EXCLUDED_MARKS.items() if excluded[mark]}


def exclusion_mark(new_state: pl.Expr, old_state: pl.Expr) -> pl.Expr:
    """PENDING, or one of EXCLUDED_MARKS (UInt8), by the license states of a device.

    `new_state` is the state under the SKU to assign. `old_state` is the state under the SKU that a migration
    takes, and NO_RECORD in other runs. Only the run that left a device in doubt may send it again, under the
    same `X-Request-ID` (promise D). A device with the new license is skipped. A device with both licenses has
    not moved yet, so it fails.
    """
    has_new, has_old = new_state == LicenseState.ASSIGNED, old_state == LicenseState.ASSIGNED
    is_in_doubt = (new_state == LicenseState.IN_DOUBT) | (old_state == LicenseState.IN_DOUBT)
    statuses = (
        (has_new & has_old, DeviceStatus.FAILED),
        (is_in_doubt, DeviceStatus.IN_DOUBT),
        (has_new, DeviceStatus.SKIPPED),
    )
    marks = [pl.when(holds).then(pl.lit(EXCLUDED_MARKS[status], pl.UInt8)) for holds, status in statuses]
    return pl.coalesce(*marks, pl.lit(PENDING, pl.UInt8))


def _license_states(fleet: Fleet, known_licenses: KnownLicenses, targets: Sequence[Target]) -> pl.Series:
    """The LicenseState (UInt8) of each row by both its identifiers, at its ordinal, or NO_RECORD.

    `targets` are the accounts and SKUs to look up, in the order of the targets of the rows.
    """
    pairs = [(target.account_name, target.sku_number) for target in targets]
    states = [_states_by(fleet, known_licenses, pairs, identifier) for identifier in IDENTIFIERS]
    return pl.DataFrame(states).max_horizontal()


def _states_by(
    fleet: Fleet, known_licenses: KnownLicenses, targets: Sequence[tuple[str, str]], identifier: str
) -> pl.Series:
    """The LicenseState of each row by one of its identifiers.

    The function tests membership in sets, one for each state, which takes a tenth of the time of a join.
    """
    value = pl.col(identifier)
    if len(targets) > 1:
        value = (pl.col("rank").cast(pl.Int128) * 2**64 + value).alias(identifier)
    states = pl.zeros(fleet.rows_read, dtype=pl.UInt8, eager=True).alias(identifier)
    rank = fleet.targets.rank().alias("rank")
    for key_range in fleet.devices.ranges(pl.col(identifier)):
        frames = [
            frame.filter(key_range).select(value, "state")
            for frame in known_licenses.records(targets, identifier)
        ]
        if not any(frame.height for frame in frames):
            continue
        records = _newest(pl.concat(frames), identifier)
        rows = fleet.devices.select(key_range, "ordinal", identifier, rank).select("ordinal", value)
        for (state,), records_in_state in records.partition_by("state", as_dict=True).items():
            is_recorded = rows[identifier].is_in(records_in_state[identifier].implode())
            states = states.scatter(rows["ordinal"].filter(is_recorded), state)
    return states


def _newest(records: pl.DataFrame, identifier: str) -> pl.DataFrame:
    """The last record of each value."""
    values = records[identifier]
    if values.n_unique() == records.height:
        return records
    is_repeated = values.is_in(repeated_values(values).implode())
    newest = records.filter(is_repeated).unique(identifier, keep="last")
    return pl.concat([records.filter(~is_repeated), newest])

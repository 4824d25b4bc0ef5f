"""What a run reads from the ledger before it sends, and what it records there afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import polars as pl

from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.chunker.exclusion import LicenseState
from batchlic.errors import BatchlicError, RefusedToStart, RunFolderError, UsageError
from batchlic.job import Job
from batchlic.journal import SANDBOX, Journal, RunIdentity
from batchlic.ledger import IDENTIFIERS, SCOPE, Ledger, RunEntry, RunRecords, Snapshot
from batchlic.ledger.records import excluded_pairs, ledger_records
from batchlic.objectstore.addresses import is_remote
from batchlic.objectstore.copies import address_of, local_run
from batchlic.reader.scans import scan_parquet
from batchlic.reader.validation.rules import iccid_number, imei_number
from batchlic.runs.folder import RunFolder, is_wanted_of_others
from batchlic.runs.identity import left_by_a_run, refuse_changed_plan
from batchlic.runs.staging import recovered_journal
from batchlic.runs.states import state_frames_of, states_of


def with_ledger(job: Job, folder: RunFolder, identity: RunIdentity | None = None) -> Job:
    """The job with the path of its ledger: as given, or as the run began, or else beside the folder.

    The command line gives the ledger of the state folder.
    """
    default = folder.parent / "ledger.db"
    return job.with_ledger(Path(job.ledger.path or (identity and identity.job["ledger"]["path"]) or default))


@contextmanager
def snapshot_for_plan(job: Job, folder: RunFolder, carrier: str) -> Iterator[Snapshot | None]:
    """The snapshot for a plan that is not sent; None where there is no ledger, and none is made."""
    path = _ledger_path(with_ledger(job, folder), carrier)
    if path is None or not path.exists():
        yield None
        return
    with closing(Ledger(path)) as ledger:
        yield LedgerSync(ledger, job, carrier, locked=()).snapshot()


def newest_number(job: Job, folder: RunFolder, carrier: str) -> int:
    """The number of the newest records in the ledger of a run that is planned; 0 without a ledger."""
    path = _ledger_path(with_ledger(job, folder), carrier)
    if path is None or not path.exists():
        return 0
    with closing(Ledger(path)) as ledger:
        return ledger.last_number


def recorded_since(job: Job, carrier: str, identity: RunIdentity, devices: pl.DataFrame) -> pl.DataFrame:
    """Those of the devices of a run that other runs have recorded since it was planned.

    `devices` (columns: SCOPE and IDENTIFIERS); the result has `state`, too. Empty if the ledger does not have
    the run.
    """
    found = [devices.clear().with_columns(pl.lit(None, pl.String).alias("state"))]
    path = _ledger_path(job, carrier)
    if path is None or not path.exists():
        return found[0]
    with closing(Ledger(path)) as ledger:
        LedgerSync(ledger, job, carrier, locked=()).catch_up()
        if not ledger.has_run(identity.run_id):
            return found[0]
        number = ledger.planned_after(identity.run_id)
        targets = devices.select(*SCOPE).unique().rows()
        columns = (*IDENTIFIERS, "state")
        for newer in ledger.run_records(
            carrier, targets, columns, after=number, not_completed_by=identity.run_id
        ):
            if newer.entry.run_id == identity.run_id:
                continue
            records = newer.records.drop_nulls("state").with_columns(pl.col("state").cast(pl.String))
            scoped = devices.filter(account_name=newer.account_name, sku_number=newer.sku_number)
            for key in IDENTIFIERS:
                states = records.select(key, "state").drop_nulls()
                found.append(scoped.join(states, on=key).select(found[0].columns))
    return pl.concat(found)


@contextmanager
def ledger_sync(
    job: Job, carrier: str, *, locked: tuple[RunFolder, ...], is_new: bool = False
) -> Iterator[LedgerSync]:
    """Open the ledger of `job`. Where the job uses none, every method of the LedgerSync does nothing.

    `locked` are the folders that the caller has locked. The ledger of a new run is made only when the run is
    registered: a run that is refused before leaves none. Raises RefusedToStart where the run is not new and
    its ledger is missing, and UsageError where the ledger of a new run can't be written.
    """
    path = _ledger_path(job, carrier)
    if path is not None and is_new:
        _refuse_unwritable(path)
    if path is None or (is_new and not path.exists()):
        yield LedgerSync(None, job, carrier, locked)
        return
    if not path.exists():
        raise RefusedToStart(
            f"{path}: the ledger of this run is missing. Restore it, or build it again: "
            f"batchlic ledger import {path.parent} --ledger {path}"
        )
    with closing(Ledger(path)) as ledger:
        yield LedgerSync(ledger, job, carrier, locked)


def check_ledger(path: Path) -> bool:
    """Whether there is a ledger at `path`. None is made.

    Raises UsageError if it can't be written, and as opening it does if it is damaged.
    """
    _refuse_unwritable(path)
    if not path.exists():
        return False
    Ledger(path).close()
    return True


def refuse_at_work(ledger: Ledger, carrier: str) -> None:
    """Raise RefusedToStart where a run against `carrier` is at work."""
    for entry in ledger.open_entries(carrier):
        folder = _folder(entry)
        if folder.path.is_dir():
            with folder.locked():
                pass


@dataclass(frozen=True, slots=True)
class LedgerSync:
    """The ledger of one run of `job` against `carrier`; the caller has locked the folders `locked`."""

    ledger: Ledger | None
    job: Job
    carrier: str
    locked: tuple[RunFolder, ...]

    def snapshot(self) -> Snapshot | None:
        """What to leave out of the plan, after `catch_up`; None where nothing is left out.

        An unassign leaves nothing out: the ledger does not know of every license.
        """
        if self.ledger is None:
            return None
        self.catch_up()
        if self.job.action == "unassign":
            return None
        return Snapshot(self.ledger, self.carrier, self.ledger.last_number, self.job.license.to_sku)

    def register(
        self, run_id: str, folder: RunFolder, *, begun_at: int, planned_after: int | None = None
    ) -> None:
        """Register a new run before it sends; `begun_at` in microseconds since 1970.

        `planned_after` is the number of the newest records when it was planned; None: nothing of the plan
        depends on the ledger.

        Raises RefusedToStart where a run at work has some of the same devices, or where another run has
        recorded some since this run was planned.
        """
        number = planned_after
        if number is None:
            number = self.ledger.last_number if self.ledger else 0
        with self._made() as ledger:
            if ledger is not None:
                ledger.register(self._entry(run_id, folder, begun_at), planned_after=number)
                with _closed_if_refused(ledger, run_id):
                    self._refuse_shared(ledger, _planned_devices(folder), run_id, folder, number)

    def changes_since(self, folder: RunFolder, number: int) -> list[str]:
        """What other runs have recorded after `number` about devices of a plan, in words.

        An excluded device counts only if its state is another one now.
        """
        if self.ledger is None:
            return []
        rows = scan_parquet(folder.plan)
        to_send = _under_both_skus(_planned_devices(folder), self.job)
        excluded = _under_both_skus(_identified(rows.filter(_IS_EXCLUDED), "held"), self.job)
        targets = pl.concat([to_send.select(*SCOPE), excluded.select(*SCOPE)]).unique().collect().rows()
        newer = self.ledger.run_records(self.carrier, targets, (*IDENTIFIERS, "state"), after=number)
        changes = []
        for other, found in groupby(newer, key=lambda records: records.entry):
            records = [_with_scope(one) for one in found]
            touched = _count_shared(to_send, records, SCOPE)
            for status, state in _STATE_OF_EXCLUDED.items():
                changed = [frame.filter(pl.col("state").ne_missing(state)) for frame in records]
                touched += _count_shared(excluded.filter(pl.col("held") == status), changed, SCOPE)
            if touched:
                changes.append(
                    f"run {other.run_id} ({other.folder or 'an import'}) has recorded {touched:,} of its "
                    "devices since it was planned"
                )
        return changes

    @contextmanager
    def _made(self) -> Iterator[Ledger | None]:
        """The ledger, which is made if it does not exist yet; None where the job uses none."""
        path = _ledger_path(self.job, self.carrier)
        if self.ledger is not None or path is None:
            yield self.ledger
            return
        with closing(Ledger(path)) as made:
            yield made

    def unrecorded(self, groups: Iterable[PlanGroup], *, run_id: str | None = None) -> list[PlanGroup]:
        """The groups, by the SKU that their devices get, of which no other run has a record.

        Empty where the job assigns nothing, uses no ledger, or allows a new one. A run that is at work on
        devices of the account counts like a record. `run_id` is the run of this job if it is registered.
        """
        uses_ledger = _ledger_path(self.job, self.carrier) is not None
        if not uses_ledger or self.job.ledger.allow_new or self.job.action == "unassign":
            return []
        to_sku = self.job.license.to_sku
        wanted = [replace(group, sku_number=to_sku or group.sku_number) for group in groups]
        if self.ledger is None:
            return wanted
        known = {(account, sku) for carrier, account, sku in self.ledger.scopes() if carrier == self.carrier}
        others = [entry for entry in self.ledger.open_entries(self.carrier) if entry.run_id != run_id]
        accounts = {account for entry in others for account in _accounts(_folder(entry))}
        return [
            group
            for group in wanted
            if (group.account_name, group.sku_number) not in known and group.account_name not in accounts
        ]

    def register_resumed(self, folder: RunFolder, journal: Journal) -> None:
        """Register a run that is resumed.

        Raises RefusedToStart where another run is at work on devices that are still to be sent, or has
        recorded some since this run was planned.
        """
        if self.ledger is None:
            return
        run_id = journal.identity.run_id
        self.catch_up()
        self.reopen(folder, journal)
        with _closed_if_refused(self.ledger, run_id):
            unsent = _unsent_devices(folder, journal)
            self._refuse_shared(self.ledger, unsent, run_id, folder, self.ledger.planned_after(run_id))

    def reopen(self, folder: RunFolder, journal: Journal) -> None:
        """Note that the run may do more than it has recorded."""
        if self.ledger is not None:
            self.ledger.register(self._entry(journal.identity.run_id, folder, journal.created_at))

    def record(self, folder: RunFolder, journal: Journal) -> None:
        """Replace what the run recorded before by its device states, and close it."""
        if self.ledger is not None:
            self.reopen(folder, journal)
            _record(self.ledger, folder, journal)

    def catch_up(self) -> None:
        """Record the runs that were killed before they could do so, from their journals.

        Raises RefusedToStart where such a run can't be read.
        """
        if self.ledger is None:
            return
        for entry in self.ledger.open_entries(self.carrier):
            folder = _folder(entry)
            if not folder.path.is_dir():
                raise _unreadable(self.ledger, entry, "its folder is gone")
            with ExitStack() as locks:
                if not any(folder.path.samefile(own.path) for own in self.locked):
                    try:
                        locks.enter_context(folder.locked())
                    except RefusedToStart:
                        continue  # at work: `register` refuses other runs with the same devices
                _record_killed(self.ledger, entry, folder)

    def _entry(self, run_id: str, folder: RunFolder, begun_at: int) -> RunEntry:
        return RunEntry(run_id, self.carrier, address_of(folder.path), begun_at)

    def _refuse_shared(
        self, ledger: Ledger, devices: pl.LazyFrame, run_id: str, folder: RunFolder, number: int
    ) -> None:
        """Raise where a run at work has some of the devices, or one has recorded some after `number`."""
        for other in ledger.open_entries(self.carrier):
            if other.run_id != run_id:
                _refuse_shared_with_open(other, devices, folder)
        targets = _targets(folder, self.job)
        newer = ledger.run_records(self.carrier, targets, IDENTIFIERS, after=number, not_completed_by=run_id)
        for other, found in groupby(newer, key=lambda records: records.entry):
            if other.run_id != run_id:
                _refuse_shared_records(other, found, _under_both_skus(devices, self.job), folder)


# -- recording ------------------------------------------------------------------------------------------


def _record(ledger: Ledger, folder: RunFolder, journal: Journal) -> None:
    states = state_frames_of(folder, journal)
    ledger.record(journal.identity.run_id, ledger_records(states), lambda: excluded_pairs(folder.plan))
    ledger.close_run(journal.identity.run_id)


def _record_killed(ledger: Ledger, entry: RunEntry, folder: RunFolder) -> None:
    """Record a run that was killed; the caller has locked its folder."""
    if not folder.journal.exists() and not left_by_a_run(folder):
        ledger.close_run(entry.run_id)  # nothing was sent
        return
    try:
        with closing(recovered_journal(folder)) as journal:
            if journal.identity.run_id == entry.run_id:
                refuse_changed_plan(folder, journal.identity)
                _record(ledger, folder, journal)
                return
    except RunFolderError as error:
        raise _unreadable(ledger, entry, f"it can't be read: {error}") from error
    raise _unreadable(ledger, entry, "its folder holds another run")


def _unreadable(ledger: Ledger, entry: RunEntry, reason: str) -> RefusedToStart:
    return RefusedToStart(
        f"{ledger.path}: run {entry.run_id} did not end, and {reason} ({entry.folder}). Restore the folder. "
        f"If its devices may be sent again: batchlic ledger forget {entry.run_id} --ledger {ledger.path}"
    )


@contextmanager
def _closed_if_refused(ledger: Ledger, run_id: str) -> Iterator[None]:
    """Close the run where the block refuses it: it did nothing that it has not recorded."""
    try:
        yield
    except BatchlicError:
        ledger.close_run(run_id)
        raise


# -- shared devices -------------------------------------------------------------------------------------


def _refuse_shared_with_open(other: RunEntry, devices: pl.LazyFrame, folder: RunFolder) -> None:
    """Raise RefusedToStart where the plan of a run at work has some of the devices, under any SKU."""
    other_folder = _folder(other)
    if not other_folder.plan.is_file():
        return
    if shared := _count_shared(devices, [_planned_devices(other_folder)], SCOPE[:1]):
        raise RefusedToStart(
            f"{folder.path}: run {other.run_id} is at work on {shared:,} of the same devices "
            f"({other.folder}); wait for it or stop it"
        )


def _refuse_shared_records(
    other: RunEntry, found: Iterator[RunRecords], devices: pl.LazyFrame, folder: RunFolder
) -> None:
    """Raise RefusedToStart where some of the devices are among the records of another run."""
    if shared := _count_shared(devices, map(_with_scope, found), SCOPE):
        raise RefusedToStart(
            f"{folder.path}: since this run was planned, run {other.run_id} has recorded {shared:,} of the "
            "devices that this run still has to send. Run the inventory again instead: it skips licensed "
            "devices, and leaves out devices in doubt until you settle them"
        )


def _count_shared(devices: pl.LazyFrame, others: Iterable[pl.LazyFrame], scope: tuple[str, ...]) -> int:
    """How many of the devices are among the others: by IMEI or by ICCID, whichever finds more.

    No device is in two frames of `others`. One of these frames is in memory at a time.
    """
    counts = dict.fromkeys(IDENTIFIERS, 0)
    for frame in others:
        for key in IDENTIFIERS:
            shared = devices.join(frame, on=[*scope, key], how="semi").select(pl.len())
            counts[key] += shared.collect(engine="streaming").item()
    return max(counts.values())


def _planned_devices(folder: RunFolder) -> pl.LazyFrame:
    """The devices in a plan's batches (columns: SCOPE and IDENTIFIERS)."""
    return _identified(scan_parquet(folder.plan).filter(pl.col("batch_id").is_not_null()))


def _unsent_devices(folder: RunFolder, journal: Journal) -> pl.LazyFrame:
    """The devices that a run still has to send (columns: SCOPE and IDENTIFIERS)."""
    is_unsent = pl.col("status").is_in([DeviceStatus.PENDING.value, DeviceStatus.IN_DOUBT.value])
    return _identified(states_of(folder, journal).filter(is_unsent & pl.col("batch_id").is_not_null()))


_IS_EXCLUDED = pl.col("batch_id").is_null()

_STATE_OF_EXCLUDED = {
    DeviceStatus.SKIPPED.value: LicenseState.ASSIGNED.name.lower(),
    DeviceStatus.IN_DOUBT.value: LicenseState.IN_DOUBT.name.lower(),
    DeviceStatus.FAILED.value: LicenseState.ASSIGNED.name.lower(),
}
"""The state in the ledger for which a device is excluded, by its status in the plan."""


def _identified(rows: pl.LazyFrame, *more: str) -> pl.LazyFrame:
    return rows.select(
        *SCOPE, *more, imei_number=imei_number(pl.col("imei")), iccid_number=iccid_number(pl.col("iccid"))
    )


def _targets(folder: RunFolder, job: Job) -> list[tuple[str, str]]:
    """Accounts and SKUs of a plan's batches; of a migration, both SKUs."""
    devices = _under_both_skus(_planned_devices(folder), job)
    return devices.select(*SCOPE).unique().collect(engine="streaming").rows()


def _under_both_skus(devices: pl.LazyFrame, job: Job) -> pl.LazyFrame:
    """The devices; those of a migration under the SKU to leave and again under the SKU to get."""
    if job.license.to_sku is None:
        return devices
    skus = (job.license.from_sku, job.license.to_sku)
    return pl.concat(devices.with_columns(pl.lit(sku).alias("sku_number")) for sku in skus)


def _with_scope(found: RunRecords) -> pl.LazyFrame:
    return found.records.lazy().with_columns(
        pl.lit(found.account_name).alias(SCOPE[0]), pl.lit(found.sku_number).alias(SCOPE[1])
    )


def _accounts(folder: RunFolder) -> list[str]:
    """The accounts of a plan's batches; none if there is no plan."""
    if not folder.plan.is_file():
        return []
    accounts = _planned_devices(folder).select(SCOPE[0]).unique().collect(engine="streaming")
    return accounts.to_series().to_list()


def _refuse_unwritable(path: Path) -> None:
    """Raise UsageError if a ledger can't be written at `path`, before the carrier is asked anything.

    While the process runs, such an error may pass. At its start, a person has to change something.
    """
    place = path.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    advice = "name another place with --ledger or BATCHLIC_STATE_DIR"
    if not place.is_dir() or path.is_dir():
        odd = f"{path} is a folder" if path.is_dir() else f"{place} is not a folder"
        raise UsageError(f"{path}: the ledger can't be written, because {odd}: {advice}")
    for name in filter(os.path.exists, (place, path)):
        if not os.access(name, os.W_OK):
            raise UsageError(
                f"{path}: the ledger can't be written, because {name} is read-only or belongs to another "
                f"user: fix its permissions, or {advice}"
            )


def _ledger_path(job: Job, carrier: str) -> Path | None:
    """Where the ledger is; None where the job uses none."""
    if not job.ledger.use or carrier == SANDBOX or job.ledger.path is None:
        return None
    return Path(job.ledger.path)


def _folder(entry: RunEntry) -> RunFolder:
    place = entry.folder or ""
    return RunFolder(local_run(place, is_wanted_of_others) if is_remote(place) else Path(place))

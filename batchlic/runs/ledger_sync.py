"""What a run reads from the ledger before it sends, and what it records there afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import polars as pl

from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.chunker.exclusion import LicenseState
from batchlic.errors import BatchlicError, RefusedToStart, RunFolderError
from batchlic.figures import time_in_files
from batchlic.job import Job
from batchlic.journal import SANDBOX, Journal, RunIdentity
from batchlic.ledger import IDENTIFIERS, SCOPE, Announcement, Ledger, RunEntry, RunRecords, Snapshot
from batchlic.ledger.places import LedgerPlace, place_of
from batchlic.ledger.records import excluded_pairs, ledger_records, slices_of
from batchlic.objectstore.addresses import is_remote
from batchlic.objectstore.copies import address_of, local_run
from batchlic.reader.scans import scan_parquet
from batchlic.reader.validation.rules import iccid_number, imei_number
from batchlic.runs.folder import RunFolder, is_wanted_of_others
from batchlic.runs.identity import left_by_a_run, refuse_changed_plan
from batchlic.runs.staging import recovered_journal
from batchlic.runs.states import state_frames_of, states_of
from batchlic.runs.store_record import NamedStore


def with_ledger(job: Job, folder: RunFolder, identity: RunIdentity | None = None) -> Job:
    """The job with the place of its ledger: as given, or as the run began, or else in its store.

    Without a store, it is beside the folder. The command line gives the ledger of the state folder.
    """
    default = job.store.url or folder.parent / "ledger.db"
    return job.with_ledger(job.ledger.path or (identity and identity.job["ledger"]["path"]) or default)


@contextmanager
def snapshot_for_plan(job: Job, folder: RunFolder, carrier: str) -> Iterator[Snapshot | None]:
    """The snapshot for a plan that is not sent; None where there is no ledger, and none is made."""
    place = _place(with_ledger(job, folder), carrier)
    if place is None or not place.exists():
        yield None
        return
    with closing(Ledger(place.location)) as ledger:
        yield LedgerSync(ledger, job, carrier, locked=()).snapshot()


def newest_number(job: Job, folder: RunFolder, carrier: str) -> int:
    """The number of the newest records in the ledger of a run that is planned; 0 without a ledger."""
    place = _place(with_ledger(job, folder), carrier)
    if place is None or not place.exists():
        return 0
    with closing(Ledger(place.location)) as ledger:
        return ledger.last_number


def recorded_since(job: Job, carrier: str, identity: RunIdentity, devices: pl.DataFrame) -> pl.DataFrame:
    """Those of the devices of a run that other runs have recorded since it was planned.

    `devices` (columns: SCOPE and IDENTIFIERS); the result has `state`, too. Empty if the ledger does not have
    the run.
    """
    found = [devices.clear().with_columns(pl.lit(None, pl.String).alias("state"))]
    place = _place(job, carrier)
    if place is None or not place.exists():
        return found[0]
    with closing(Ledger(place.location)) as ledger:
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
    place = _place(job, carrier)
    if place is not None and is_new:
        place.refuse_unwritable()
    if place is None or (is_new and not place.exists()):
        yield LedgerSync(None, job, carrier, locked)
        return
    if not place.exists():
        raise RefusedToStart(
            f"{place}: the ledger of this run is missing. Restore it, or build it again: "
            f"batchlic ledger import {place.runs_dir} --ledger {place}"
        )
    with closing(Ledger(place.location)) as ledger:
        yield LedgerSync(ledger, job, carrier, locked)


def check_ledger(location: Path | str) -> bool:
    """Whether there is a ledger in a file or a store. None is made.

    Raises UsageError if it can't be written, and as reading it does if it is damaged.
    """
    place = place_of(location)
    place.refuse_unwritable()
    if not place.exists():
        return False
    with closing(Ledger(location)) as ledger:
        ledger.open_by_run()  # reads the catalog
    return True


def refuse_at_work(ledger: Ledger, carrier: str) -> None:
    """Raise RefusedToStart where a run against `carrier` is at work."""
    for entry in ledger.open_entries(carrier):
        if (holder := ledger.holder(entry.run_id)) is not None:
            raise RefusedToStart(f"run {entry.run_id} is at work ({holder}): wait for it or stop it")
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
                ledger.register(
                    self._entry(run_id, folder, begun_at),
                    planned_after=number,
                    announcement=_announcement(folder, _announced_devices(folder)),
                )
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
        place = _place(self.job, self.carrier)
        if self.ledger is not None or place is None:
            yield self.ledger
            return
        with closing(Ledger(place.location)) as made:
            yield made

    def unrecorded(self, groups: Iterable[PlanGroup], *, run_id: str | None = None) -> list[PlanGroup]:
        """The groups, by the SKU that their devices get, of which no other run has a record.

        Empty where the job assigns nothing, uses no ledger, or allows a new one. A run that is at work on
        devices of the account counts like a record. `run_id` is the run of this job if it is registered.
        """
        uses_ledger = _place(self.job, self.carrier) is not None
        if not uses_ledger or self.job.ledger.allow_new or self.job.action == "unassign":
            return []
        to_sku = self.job.license.to_sku
        wanted = [replace(group, sku_number=to_sku or group.sku_number) for group in groups]
        if self.ledger is None:
            return wanted
        known = {(account, sku) for carrier, account, sku in self.ledger.scopes() if carrier == self.carrier}
        others = [entry for entry in self.ledger.open_entries(self.carrier) if entry.run_id != run_id]
        accounts = {account for entry in others for account in _accounts(self.ledger, entry)}
        return [
            group
            for group in wanted
            if (group.account_name, group.sku_number) not in known and group.account_name not in accounts
        ]

    def register_resumed(self, folder: RunFolder, journal: Journal) -> None:
        """Register a run that is resumed.

        Raises RefusedToStart where another run is at work on devices that are still to be sent, or has
        recorded some since this run was planned, and where the folder is an outdated copy of the run.
        """
        if self.ledger is None:
            return
        run_id = journal.identity.run_id
        self.catch_up(resumed={run_id: folder})
        _refuse_outdated(self.ledger, folder, journal)
        entry = self._entry(run_id, folder, journal.created_at)
        self.ledger.register(entry, announcement=_announcement(folder, _announced_devices(folder)))
        with _closed_if_refused(self.ledger, run_id):
            unsent = _unsent_devices(folder, journal)
            self._refuse_shared(self.ledger, unsent, run_id, folder, self.ledger.planned_after(run_id))

    def reopen(self, folder: RunFolder, journal: Journal) -> None:
        """Note that the run may do more than it has recorded. Raises RefusedToStart in an outdated copy."""
        if self.ledger is not None:
            _refuse_outdated(self.ledger, folder, journal)
            self._reopen(self.ledger, folder, journal)

    def record(self, folder: RunFolder, journal: Journal) -> None:
        """Replace what the run recorded before by its device states, and close it."""
        if self.ledger is not None:
            self._reopen(self.ledger, folder, journal)
            _record(self.ledger, folder, journal)

    def _reopen(self, ledger: Ledger, folder: RunFolder, journal: Journal) -> None:
        entry = self._entry(journal.identity.run_id, folder, journal.created_at)
        ledger.register(entry, announcement=_announcement(folder))

    def catch_up(self, *, resumed: Mapping[str, RunFolder] | None = None) -> None:
        """Record the runs that were killed before they could do so, from their journals.

        `resumed`: the folder of the run in hand, by its run_id. It counts if the folder has moved since the
        run was registered.

        Raises RefusedToStart where such a run can't be read: its plan is only in its folder. Also where the
        run in hand is at work in another folder.
        """
        if self.ledger is None:
            return
        for entry in self.ledger.open_entries(self.carrier):
            if self.ledger.holder(entry.run_id) is not None:
                continue  # at work, perhaps on another machine
            folder = _folder(entry)
            if not folder.path.is_dir():
                folder = (resumed or {}).get(entry.run_id, folder)
            if not folder.path.is_dir():
                if not _sent_nothing(self.ledger, entry):
                    raise _unreadable(self.ledger, entry, "its folder is gone, or on another machine")
                self.ledger.close_run(entry.run_id)
                continue
            with ExitStack() as locks:
                if not any(folder.path.samefile(own.path) for own in self.locked):
                    try:
                        locks.enter_context(folder.locked())
                    except RefusedToStart as error:
                        if (copy := (resumed or {}).get(entry.run_id)) is not None:
                            raise RefusedToStart(f"{copy.path}: a copy of a run at work: {error}") from error
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
                _refuse_shared_with_open(ledger, other, devices, folder)
        targets = _targets(folder, self.job)
        newer = ledger.run_records(self.carrier, targets, IDENTIFIERS, after=number, not_completed_by=run_id)
        for other, found in groupby(newer, key=lambda records: records.entry):
            if other.run_id != run_id:
                _refuse_shared_records(other, found, _under_both_skus(devices, self.job), folder)


# -- recording ------------------------------------------------------------------------------------------


def _record(ledger: Ledger, folder: RunFolder, journal: Journal) -> None:
    run_id, lease = journal.identity.run_id, folder.lease
    states = ledger_records(state_frames_of(folder, journal))
    ledger.record(run_id, states, lambda: excluded_pairs(folder.plan), lease=lease)
    ledger.close_run(run_id, lease=lease)


def _announcement(folder: RunFolder, devices: Iterable[pl.DataFrame] = ()) -> Announcement | None:
    """What a session tells other machines; None if the journal is a file: nothing holds a lease then."""
    lease = folder.lease
    return None if lease is None else Announcement(lease, devices)


def _announced_devices(folder: RunFolder) -> Iterator[pl.DataFrame]:
    """The devices in a plan's batches (columns: account_name, IDENTIFIERS), in frames."""
    for rows in slices_of(scan_parquet(folder.plan)):
        yield _in_batches(rows).select(SCOPE[0], *IDENTIFIERS).collect()


def _record_killed(ledger: Ledger, entry: RunEntry, folder: RunFolder) -> None:
    """Record a run that was killed; the caller has locked its folder."""
    if not folder.journal.exists() and not left_by_a_run(folder):
        ledger.close_run(entry.run_id)  # nothing was sent
        return
    try:
        with closing(recovered_journal(folder)) as journal:
            if journal.identity.run_id == entry.run_id:
                refuse_changed_plan(folder, journal.identity)
                _refuse_outdated(ledger, folder, journal)  # its records would replace newer ones
                _record(ledger, folder, journal)
                return
    except RunFolderError as error:
        raise _unreadable(ledger, entry, f"it can't be read: {error}") from error
    raise _unreadable(ledger, entry, "its folder holds another run")


def _sent_nothing(ledger: Ledger, entry: RunEntry) -> bool:
    """Whether a run whose folder can't be reached has sent nothing, by its journal in the store."""
    lease = ledger.lease_of(entry.run_id)
    if lease is None:
        return False
    named, folder = NamedStore.of_lease(*lease), Path(entry.folder or "")
    with named.held(folder):
        place = named.place(folder)
        if not place.exists():
            return True
        with place.inspect() as journal:
            return journal.identity.run_id == entry.run_id and next(journal.attempts(), None) is None


def _unreadable(ledger: Ledger, entry: RunEntry, reason: str) -> RefusedToStart:
    return RefusedToStart(
        f"{ledger.place}: run {entry.run_id} did not end, and {reason} ({entry.folder}). Restore the folder. "
        f"If its devices may be sent again: batchlic ledger forget {entry.run_id} --ledger {ledger.place}"
    )


@contextmanager
def _closed_if_refused(ledger: Ledger, run_id: str) -> Iterator[None]:
    """Close the run where the block refuses it: it did nothing that it has not recorded."""
    try:
        yield
    except BatchlicError:
        ledger.close_run(run_id)
        raise


def _refuse_outdated(ledger: Ledger, folder: RunFolder, journal: Journal) -> None:
    """Raise RefusedToStart where the run has recorded requests that its journal does not have."""
    run_id = journal.identity.run_id
    entry = ledger.find_entry(run_id)
    unknown = ledger.request_times(run_id) - journal.request_times()
    if entry is None or entry.folder is None or not unknown:  # without a folder: an import
        return
    raise RefusedToStart(
        f"{folder.path}: an outdated copy of run {run_id}: by the ledger, the run sent requests that are not "
        f"in this journal, the last one at {time_in_files(max(unknown))}. Continue the run in its newest "
        f"folder ({entry.folder}), or restore its newest journal. If both are lost, run the inventory again: "
        "the ledger has the devices that the run recorded"
    )


# -- shared devices -------------------------------------------------------------------------------------


def _refuse_shared_with_open(
    ledger: Ledger, other: RunEntry, devices: pl.LazyFrame, folder: RunFolder
) -> None:
    """Raise RefusedToStart where the plan of a run at work has some of the devices, under any SKU."""
    if shared := _count_shared(devices, _planned_by(ledger, other), SCOPE[:1]):
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
    return _in_batches(scan_parquet(folder.plan))


def _in_batches(rows: pl.LazyFrame) -> pl.LazyFrame:
    return _identified(rows.filter(pl.col("batch_id").is_not_null()))


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


def _planned_by(ledger: Ledger, entry: RunEntry) -> Iterator[pl.LazyFrame]:
    """The devices of a run at work: what it announced, or else those in its plan."""
    if ledger.has_announced(entry.run_id):
        yield from map(pl.DataFrame.lazy, ledger.announced(entry.run_id))
    elif (folder := _folder(entry)).plan.is_file():
        yield _planned_devices(folder)


def _accounts(ledger: Ledger, entry: RunEntry) -> set[str]:
    """The accounts of the batches of a run at work; none if there is no plan."""
    frames = (frame.select(SCOPE[0]).unique() for frame in _planned_by(ledger, entry))
    return {account for frame in frames for account in frame.collect(engine="streaming").to_series()}


def _place(job: Job, carrier: str) -> LedgerPlace | None:
    """Where the ledger is; None where the job uses none."""
    if not job.ledger.use or carrier == SANDBOX or job.ledger.path is None:
        return None
    return place_of(job.ledger.path)


def _folder(entry: RunEntry) -> RunFolder:
    place = entry.folder or ""
    return RunFolder(local_run(place, is_wanted_of_others) if is_remote(place) else Path(place))

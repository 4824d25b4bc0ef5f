"""What one run asks of the ledger before it sends, and tells it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError, RefusedToStart, RunFolderError
from batchlic.runs.identity import left_by_a_run, refuse_changed_plan
from batchlic.job import Job, Licensing
from batchlic.journal import SANDBOX, Journal, RunIdentity
from batchlic.ledger.ledger import IDENTIFIERS, SCOPE, Entry, Ledger, Snapshot, RunRecords
from batchlic.reader.rules import iccid_number, imei_number
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import recovered_journal
from batchlic.runs.states import states_of
from batchlic.writer.results import write_results
from batchlic.ledger.records import pairs_of_results, records_of_results


def with_ledger(job: Job, folder: RunFolder, begun: RunIdentity | None = None) -> Job:
    """The job with its ledger named: by itself, or as the run began, or else the one beside its folder."""
    path = job.ledger.path or (begun and begun.job["ledger"]["path"]) or str(folder.parent / "ledger.db")
    return job.model_copy(update={"ledger": job.ledger.model_copy(update={"path": path})})


@contextmanager
def snapshot_for_plan(job: Job, folder: RunFolder, carrier: str) -> Iterator[Snapshot | None]:
    """What to leave out of a plan that nobody is to send: no ledger is made for it."""
    path = _path(with_ledger(job, folder), carrier)
    if path is None or not path.exists():
        yield None
        return
    with closing(Ledger(path)) as ledger:
        yield LedgerSync(ledger, job, carrier, holding=()).known()


@contextmanager
def ledger_sync(
    job: Job, carrier: str, *, holding: tuple[RunFolder, ...], is_new: bool = False
) -> Iterator[LedgerSync]:
    """The past as far as the ledger that `job` names knows it; without one, nothing is known, nothing told.

    `holding` are the folders that the caller has locked. Raises RefusedToStart where a run that is not new
    misses the ledger that it began with.
    """
    path = _path(job, carrier)
    if path is None:
        yield LedgerSync(None, job, carrier, holding)
        return
    if not is_new and not path.exists():
        raise RefusedToStart(
            f"{path}: the ledger that this run began with is not there. Put it back, or build it again: "
            f"batchlic ledger import {path.parent} --ledger {path}"
        )
    with closing(Ledger(path)) as ledger:
        yield LedgerSync(ledger, job, carrier, holding)


def refuse_at_work(ledger: Ledger, carrier: str) -> None:
    """Raise RefusedToStart where a run against `carrier` is at work."""
    for entry in ledger.open_entries(carrier):
        folder = RunFolder(Path(entry.folder or ""))
        if folder.path.is_dir():
            with folder.locked():
                pass


@dataclass(frozen=True, slots=True)
class LedgerSync:
    """The ledger as one run of `job` against `carrier` sees it; `holding` are folders that it has locked."""

    ledger: Ledger | None
    job: Job
    carrier: str
    holding: tuple[RunFolder, ...]

    def known(self) -> Snapshot | None:
        """What to leave out of a plan; runs that ended without telling are asked first.

        Only devices to get a license are left out: what the ledger does not know to be assigned may well be
        so.
        """
        if self.ledger is None:
            return None
        self.catch_up()
        if self.job.action == "unassign":
            return None
        return Snapshot(self.ledger, self.carrier, self.ledger.last_number, self.job.license.to_sku)

    def register(
        self, run_id: str, folder: RunFolder, *, begun_at: int, planned_with: Snapshot | None = None
    ) -> None:
        """Enter a new run before it sends.

        RefusedToStart where a run at work has some of the same devices, or one has told of them what the
        memory that this run was planned with did not have yet.
        """
        if self.ledger is None:
            return
        number = planned_with.last_number if planned_with else self.ledger.last_number
        self.ledger.register(self._entry(run_id, folder, begun_at), planned_after=number)
        with self._left_if_refused(self.ledger, run_id):
            self._refuse_shared(self.ledger, _numbered(_batched(folder.plan)), run_id, folder, number)

    def register_resumed(self, folder: RunFolder, journal: Journal) -> None:
        """Enter a run that goes on. RefusedToStart where another one took up what it still has to send."""
        if self.ledger is None:
            return
        run_id = journal.identity.run_id
        self.catch_up()
        self.reopen(folder, journal)
        with self._left_if_refused(self.ledger, run_id), folder.scratch() as results:
            write_results(results, states_of(folder, journal))
            is_unsent = pl.col("status").is_in([DeviceStatus.PENDING.value, DeviceStatus.IN_DOUBT.value])
            unsent = _numbered(_batched(results).filter(is_unsent))
            self._refuse_shared(self.ledger, unsent, run_id, folder, self.ledger.planned_after(run_id))

    def reopen(self, folder: RunFolder, journal: Journal) -> None:
        """Note that more may become known of a run than it has told."""
        if self.ledger is not None:
            self.ledger.register(self._entry(journal.identity.run_id, folder, journal.created_at))

    def record(self, folder: RunFolder, journal: Journal) -> None:
        """Let the ledger know what became of the run's devices, instead of what it heard of it before."""
        if self.ledger is not None:
            self.reopen(folder, journal)
            self._tell(self.ledger, journal.identity.run_id, folder.results)

    def _tell(self, ledger: Ledger, run_id: str, results: Path) -> None:
        ledger.record(run_id, records_of_results(results), lambda: pairs_of_results(results))
        ledger.close_run(run_id)

    def _entry(self, run_id: str, folder: RunFolder, begun_at: int) -> Entry:
        return Entry(run_id, self.carrier, str(folder.path.absolute()), begun_at)

    @contextmanager
    def _left_if_refused(self, ledger: Ledger, run_id: str) -> Iterator[None]:
        """A run that is refused has told all that it did."""
        try:
            yield
        except BatchlicError:
            ledger.close_run(run_id)
            raise

    def _refuse_shared(
        self, ledger: Ledger, ours: pl.LazyFrame, run_id: str, folder: RunFolder, number: int
    ) -> None:
        """Raise where a run at work has some of our devices, or one has spoken of them after `number`."""
        for other in ledger.open_entries(self.carrier):
            plan = RunFolder(Path(other.folder or "")).plan
            if other.run_id == run_id or not plan.is_file():
                continue
            if shared := _shared(ours, _numbered(_batched(plan)), whatever_sku=True):
                raise RefusedToStart(
                    f"{folder.path}: run {other.run_id} is at work on {shared:,} of the same devices "
                    f"({other.folder}); wait for it or stop it"
                )
        ours = _under_each(ours, self.job.license)
        targets = ours.select(*SCOPE).unique().collect().rows()
        for told in ledger.told(self.carrier, targets, IDENTIFIERS, after=number, to=run_id):
            if told.entry.run_id != run_id and (shared := _shared(ours, _of_scope(told))):
                raise RefusedToStart(
                    f"{folder.path}: since this run was planned, run {told.entry.run_id} has seen to "
                    f"{shared:,} of the devices that it still has to send; run the inventory again instead: "
                    "what has its license is skipped, what this one left in doubt is held until it is settled"
                )

    def catch_up(self) -> None:
        """Read from the journals of runs that were killed what they could not tell any more."""
        if self.ledger is None:
            return
        ledger = self.ledger
        for entry in ledger.open_entries(self.carrier):
            folder = RunFolder(Path(entry.folder or ""))
            if not folder.path.is_dir():
                raise _lost(ledger, entry.run_id, f"is not in its folder {folder.path} any more")
            with ExitStack() as held:
                if not any(folder.path.samefile(ours.path) for ours in self.holding):
                    try:
                        held.enter_context(folder.locked())
                    except RefusedToStart:
                        continue  # at work: `enter` sees to it that nobody else takes up its devices
                self._absorb(ledger, entry.run_id, folder)

    def _absorb(self, ledger: Ledger, run_id: str, folder: RunFolder) -> None:
        if not folder.journal.exists() and not left_by_a_run(folder):
            ledger.close_run(run_id)  # nothing was sent
            return
        try:
            with closing(recovered_journal(folder)) as journal, folder.scratch() as results:
                if journal.identity.run_id == run_id:
                    refuse_changed_plan(folder, journal.identity)
                    write_results(results, states_of(folder, journal))
                    self._tell(ledger, run_id, results)
                    return
        except RunFolderError as error:
            raise _lost(ledger, run_id, f"can't be read: {error}") from error
        raise _lost(ledger, run_id, f"is not in its folder {folder.path} any more")


def _path(job: Job, carrier: str) -> Path | None:
    if not job.ledger.use or carrier == SANDBOX or job.ledger.path is None:
        return None
    return Path(job.ledger.path)


def _lost(ledger: Ledger, run_id: str, why: str) -> RefusedToStart:
    return RefusedToStart(
        f"{ledger.path}: run {run_id} did not end and {why}, so nobody knows what it did. Repair that, or, "
        f"if what it sent may be sent again: batchlic ledger forget {run_id} --ledger {ledger.path}"
    )


def _batched(rows: Path) -> pl.LazyFrame:
    """The rows of a plan, or of results, that requests are for."""
    return pl.scan_parquet(rows).filter(pl.col("batch_id").is_not_null())


def _numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select(
        *SCOPE, imei_number=imei_number(pl.col("imei")), iccid_number=iccid_number(pl.col("iccid"))
    )


def _of_scope(told: RunRecords) -> pl.LazyFrame:
    return told.records.lazy().with_columns(
        pl.lit(told.account_name).alias(SCOPE[0]), pl.lit(told.sku_number).alias(SCOPE[1])
    )


def _under_each(ours: pl.LazyFrame, license: Licensing) -> pl.LazyFrame:
    """Our devices: those of a migration under the SKU to leave as under the SKU to get."""
    if license.to_sku is None:
        return ours
    skus = (license.from_sku, license.to_sku)
    return pl.concat(ours.with_columns(pl.lit(sku).alias("sku_number")) for sku in skus)


def _shared(ours: pl.LazyFrame, theirs: pl.LazyFrame, *, whatever_sku: bool = False) -> int:
    """How many of our devices are among theirs, by either identifier."""
    scope = SCOPE[:1] if whatever_sku else SCOPE
    counts: list[int] = [
        ours.join(theirs, on=[*scope, key], how="semi").select(pl.len()).collect(engine="streaming").item()
        for key in IDENTIFIERS
    ]
    return max(counts)

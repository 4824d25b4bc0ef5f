"""What one run asks of the ledger before it sends, and tells it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchlic.errors import RefusedToStart
from batchlic.job import Job
from batchlic.journal import Journal, Standing
from batchlic.journal.ledger import IDENTIFIERS, SCOPE, Entry, Ledger, Memory, Told
from batchlic.reader.rules import iccid_number, imei_number
from batchlic.runfolder import RunFolder
from batchlic.writer.results import write_results
from batchlic.writer.words import words_of_results

SANDBOX = "sandbox"
"""The carrier's name where `--sandbox` starts one: it knows nothing when it begins, so it has no past."""


def ledger_path(job: Job, folder: RunFolder, carrier: str) -> Path | None:
    """Where the ledger of a run is: beside the run's folder, if the job names none; None for no ledger."""
    if not job.ledger.use or carrier == SANDBOX:
        return None
    return Path(job.ledger.path) if job.ledger.path else folder.path.parent / "ledger.db"


@contextmanager
def known_for_plan(job: Job, folder: RunFolder, carrier: str) -> Iterator[Memory | None]:
    """What to leave out of a plan that nobody is to send: no ledger is made for it."""
    path = ledger_path(job, folder, carrier)
    if path is None or not path.exists():
        yield None
        return
    with past_of(path, job, carrier) as past:
        yield past.known()


@contextmanager
def past_of(path: Path | None, job: Job, carrier: str) -> Iterator[Past]:
    """The past as far as the ledger at `path` knows it; without one, nothing is known and nothing told."""
    if path is None:
        yield Past(None, job, carrier)
        return
    with closing(Ledger(path)) as ledger:
        yield Past(ledger, job, carrier)


@dataclass(frozen=True, slots=True)
class Past:
    """The ledger as one run of `job` against `carrier` sees it."""

    ledger: Ledger | None
    job: Job
    carrier: str

    def known(self, *, run_id: str | None = None) -> Memory | None:
        """What to leave out of a plan; runs that ended without telling are asked first.

        Only devices to be assigned are left out: what the ledger does not know to be assigned may well be so.
        """
        if self.ledger is None:
            return None
        self._catch_up(self.ledger, run_id)
        if self.job.action != "assign":
            return None
        return Memory(self.ledger, self.carrier, self.job.resendable_skus, self.ledger.last_number)

    def enter(
        self, run_id: str, folder: RunFolder, *, begun_at: int, planned_with: Memory | None = None
    ) -> None:
        """Enter a run before it sends.

        RefusedToStart where a run at work has some of the same devices, or one has told of them what the
        memory that this run was planned with did not have yet.
        """
        if self.ledger is None:
            return
        self.ledger.enter(self._entry(run_id, folder, begun_at))
        ours = _to_be_sent(folder.plan)
        for other in self.ledger.open_entries(self.carrier):
            plan = RunFolder(Path(other.folder or "")).plan
            if other.run_id != run_id and plan.is_file() and (shared := _shared(ours, _to_be_sent(plan))):
                raise RefusedToStart(
                    f"{folder.path}: run {other.run_id} is at work on {shared:,} of the same devices "
                    f"({other.folder}); wait for it or stop it"
                )

        if planned_with is not None:
            self._refuse_stale(self.ledger, ours, folder, planned_with.last_number)

    def _refuse_stale(self, ledger: Ledger, ours: pl.LazyFrame, folder: RunFolder, number: int) -> None:
        targets = ours.select(*SCOPE).unique().collect().rows()
        for told in ledger.told(self.carrier, targets, IDENTIFIERS, after=number):
            if shared := _shared(ours, _of_scope(told)):
                raise RefusedToStart(
                    f"{folder.path}: while this run was being planned, run {told.entry.run_id} ended with "
                    f"{shared:,} of the same devices; run it again: what has its licence is skipped"
                )

    def reenter(self, folder: RunFolder, journal: Journal) -> None:
        """Enter a run that goes on. RefusedToStart where a later one took up what it still has to send."""
        if self.ledger is None:
            return
        run_id = journal.identity.run_id
        self._catch_up(self.ledger, run_id)
        self.enter(run_id, folder, begun_at=journal.created_at)
        later = self.ledger.began_after(run_id)
        if not later:
            return
        with folder.scratch() as results:
            write_results(results, plan=folder.plan, journal=journal)
            unsent = pl.col("status").is_in([Standing.PENDING.value, Standing.IN_DOUBT.value])
            ours = pl.scan_parquet(results).filter(unsent, pl.col("batch_id").is_not_null())
            targets = ours.select(*SCOPE).unique().collect().rows()
            for told in self.ledger.told(self.carrier, targets, IDENTIFIERS):
                if told.entry.run_id in later and (shared := _shared(_numbered(ours), _of_scope(told))):
                    raise RefusedToStart(
                        f"{folder.path}: the later run {told.entry.run_id} has taken up {shared:,} of the "
                        "devices that this one still had to send; run the inventory again instead: what has "
                        "its licence is skipped"
                    )

    def tell(self, folder: RunFolder, journal: Journal) -> None:
        """Let the ledger know what became of the run's devices, instead of what it heard of it before."""
        if self.ledger is not None:
            run_id = journal.identity.run_id
            self.ledger.enter(self._entry(run_id, folder, journal.created_at))
            self.ledger.tell(run_id, words_of_results(folder.results))
            self.ledger.leave(run_id)

    def _entry(self, run_id: str, folder: RunFolder, begun_at: int) -> Entry:
        return Entry(run_id, self.carrier, str(folder.path.absolute()), begun_at)

    def _catch_up(self, ledger: Ledger, run_id: str | None) -> None:
        """Read from the journals of runs that were killed what they could not tell any more."""
        for entry in ledger.open_entries(self.carrier):
            if entry.run_id == run_id or entry.folder is None:
                continue
            folder = RunFolder(Path(entry.folder))
            if not folder.path.is_dir():
                raise _gone(ledger, entry.run_id, folder)
            with ExitStack() as held:
                try:
                    held.enter_context(folder.locked())
                except RefusedToStart:
                    continue  # at work: `enter` sees to it that nobody else takes up its devices
                self._absorb(ledger, entry.run_id, folder)

    def _absorb(self, ledger: Ledger, run_id: str, folder: RunFolder) -> None:
        if folder.journal.exists():  # without one, nothing was sent
            with closing(Journal.open(folder.journal)) as journal, folder.scratch() as results:
                if journal.identity.run_id != run_id:
                    raise _gone(ledger, run_id, folder)
                write_results(results, plan=folder.plan, journal=journal)
                ledger.tell(run_id, words_of_results(results))
        ledger.leave(run_id)


def _gone(ledger: Ledger, run_id: str, folder: RunFolder) -> RefusedToStart:
    return RefusedToStart(
        f"{ledger.path}: run {run_id} did not end, and is not in its folder {folder.path} any more, so "
        "nobody knows what it did. Put the folder back, or, if what it sent may be sent again: "
        f"batchlic ledger forget {run_id} --ledger {ledger.path}"
    )


def _to_be_sent(plan: Path) -> pl.LazyFrame:
    return _numbered(pl.scan_parquet(plan).filter(pl.col("batch_id").is_not_null()))


def _numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select(
        *SCOPE, imei_number=imei_number(pl.col("imei")), iccid_number=iccid_number(pl.col("iccid"))
    )


def _of_scope(told: Told) -> pl.LazyFrame:
    return told.words.lazy().with_columns(
        pl.lit(told.account_name).alias(SCOPE[0]), pl.lit(told.sku_number).alias(SCOPE[1])
    )


def _shared(ours: pl.LazyFrame, theirs: pl.LazyFrame) -> int:
    """How many of our devices are among theirs, by either identifier."""
    counts: list[int] = [
        ours.join(theirs, on=[*SCOPE, key], how="semi").select(pl.len()).collect(engine="streaming").item()
        for key in IDENTIFIERS
    ]
    return max(counts)

"""Guards: a run refuses inventories with too few rows, or with many more or fewer than last time.

They are checked when a run is planned, before anything is sent. A run that continues is not checked again:
its plan is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from batchlic.errors import BatchlicError, RefusedToStart
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import RunIdentity
from batchlic.reader.validation.reasons import Reason
from batchlic.runs.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """An earlier run of a job, to compare with. `devices`: the rows that were not rejected by the reader."""

    identity: RunIdentity
    folder: RunFolder
    created_at: int

    @property
    def devices(self) -> int:
        """The device rows of its inventories: those planned, and those for which no license was left."""
        unlicensed = self.identity.rejected.get(Reason.NO_LICENSE.value, 0)
        return self.identity.planned + unlicensed - self._rows_of_ledger

    @property
    def rows_read(self) -> int:
        """The data rows of its inventories."""
        return self.identity.rows_read - self._rows_of_ledger

    @property
    def _rows_of_ledger(self) -> int:
        """The devices of a sync that only the ledger named: its last source."""
        return self.identity.sources[-1][1] if self.identity.is_sync else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What a job expects of its inventories. `notes` says what can't be compared."""

    min_rows: int | None = None
    max_change: str | None = None
    last: LastRun | None = None
    notes: tuple[str, ...] = ()

    def check(self, rows_read: int, devices: int) -> None:
        """Raise RefusedToStart if there are too few rows, or if their number has changed too much.

        `devices` are the rows that are not rejected. Rows that are all there, but can't be used as before,
        are a change, too.
        """
        if self.min_rows is not None and rows_read < self.min_rows:
            raise RefusedToStart(
                f"{counted(rows_read, 'row')} read, but --min-rows (min_rows in the job's [inventory]) asks "
                f"for at least {self.min_rows:,}. Nothing was sent. Check the inventory. If it is right, run "
                f"it with --min-rows {rows_read}"
            )
        if self.last is not None:
            self._refuse_change(self.last, "row", self.last.rows_read, rows_read)
            self._refuse_change(self.last, "valid device", self.last.devices, devices)

    def _refuse_change(self, last: LastRun, what: str, then: int, now: int) -> None:
        allowed = Decimal((self.max_change or "0%").removesuffix("%"))
        change = Decimal(abs(now - then)) * 100 / then
        if change <= allowed:
            return
        rounded = change.to_integral_value(ROUND_CEILING)
        raise RefusedToStart(
            f"{counted(now, what)} read, but {then:,} in the last run of this job, {last.identity.run_id} "
            f"({last.folder.path}, against {last.identity.carrier}): {rounded:,}% "
            f"{'more' if now > then else 'fewer'}, and --max-change (max_change in the job's [inventory]) "
            f"allows {self.max_change}. Nothing was sent. Check the inventory. If it is right, run it with "
            f"--max-change {rounded}%"
        )


def guards_of(job: Job, folder: RunFolder, carrier: str) -> Guards:
    """The guards of a job whose next run is to be in `folder`, against `carrier`."""
    inventory = job.inventory
    if inventory.max_change is None:
        return Guards(min_rows=inventory.min_rows)
    notes: list[str] = []
    last = _last_run(job, folder, carrier, notes)
    if last is None:
        notes.append(
            f"no earlier run of this job in {folder.parent}: --max-change {inventory.max_change} has nothing "
            "to compare with"
        )
    return Guards(min_rows=inventory.min_rows, max_change=inventory.max_change, last=last, notes=tuple(notes))


def _last_run(job: Job, folder: RunFolder, carrier: str, notes: list[str]) -> LastRun | None:
    """The latest run of the job beside `folder` that had devices, or None.

    Runs against another carrier, such as rehearsals, count only if there is none against this one.
    """
    runs = (run for run in _runs_beside(folder, notes) if run.devices and _is_of(job, run.identity))
    return max(runs, key=lambda run: (run.identity.carrier == carrier, run.created_at), default=None)


def _runs_beside(folder: RunFolder, notes: list[str]) -> Iterator[LastRun]:
    """The other runs in the parent folder; `notes` gets one for each that can't be read."""
    for beside in folder.beside():
        try:
            identity, created_at = beside.journal.identity()
        except (BatchlicError, OSError) as error:
            notes.append(f"not compared with an earlier run, which can't be read: {error}")
        else:
            yield LastRun(identity=identity, folder=beside, created_at=created_at)


def _is_of(job: Job, identity: RunIdentity) -> bool:
    """Whether a run was one of this job. Jobs without a name are the same if they do the same.

    A retry has only some of the devices, so it is no run to compare with.
    """
    if identity.retry_of is not None or identity.job_action != job.action or identity.job["name"] != job.name:
        return False
    targets = ("account", "sku", "from_sku", "to_sku")
    license = job.license.model_dump()
    return job.name is not None or all(identity.job["license"].get(key) == license[key] for key in targets)

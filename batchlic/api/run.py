"""A run as an object: its state, its figures, and its files as LazyFrames."""

import html
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Self

import polars as pl

from batchlic.aliases import shown
from batchlic.api.calls import Access, Apply, Ended, Plan, Resume, Sandbox, Start, StrPath, error_of
from batchlic.api.engine import done, done_async
from batchlic.chunker import DeviceStatus
from batchlic.chunker.schema import PLAN, REJECTS
from batchlic.errors import ExitCode
from batchlic.events import Subscriber
from batchlic.objectstore.copies import refresh
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import Schema
from batchlic.runs.folder import RunFolder, missing_folder
from batchlic.runs.listing import ListedRun, RunState, listed_run
from batchlic.runs.plan_record import read_plan_record
from batchlic.runs.report import report as report_of
from batchlic.runs.status import summary_of
from batchlic.settings import Settings
from batchlic.writer.audit import AUDIT
from batchlic.writer.callback_outcomes import OUTCOMES
from batchlic.writer.device_states import RESULTS
from batchlic.writer.report.page import write_report
from batchlic.writer.summary import InventoryRows, Summary
from batchlic.writer.tables import explain_damage, other_columns, read_table


class Run:
    """A run, or a plan that was not sent yet, in its folder.

    `Run(folder)` opens one that exists. Every property reads the folder anew, so it also shows what another
    process does with the run.
    """

    def __init__(
        self,
        folder: StrPath,
        *,
        sandbox: Sandbox = False,
        profile: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Open a run.

        Args:
            folder: Path of its folder, or the name of the folder in the state folder.
            sandbox: Continue it against a sandbox carrier: True, or an `EmbeddedSandbox`.
            profile: Name of the profile with the login to continue it. Default: BATCHLIC_PROFILE.
            settings: Login and address of the carrier, instead of those of the environment.

        Raises:
            RunFolderError: There is no such folder.
        """
        self._access = Access.of(settings, profile, sandbox)
        self._run_folder = self._access.folder(folder)
        if not self._run_folder.path.is_dir():
            raise missing_folder(self._run_folder.path)
        self.warnings: tuple[str, ...] = ()
        """What went wrong with the observer of the call that returned this run, as sentences."""

    def __reduce__(self) -> tuple[Callable[..., "Run"], tuple[object, ...]]:
        """Pickle the folder, but not the login: an unpickled run has the settings of its process."""
        return _unpickled, (shown(str(self.folder)), self._access.sandbox, self.warnings)

    @property
    def id(self) -> str:
        """The run's id, such as `20261130T021500Z-3fa9c1d2`; until a plan is sent, the name of its folder."""
        return self._listed.run_id or self.folder.name

    @property
    def folder(self) -> Path:
        """The folder with all files of the run. Only its owner can open it.

        Of a run in an object store, it is a local copy, which is removed when the program ends.
        """
        return self._run_folder.path

    @property
    def status(self) -> RunState:
        """What the run does, or how it ended: `planned`, `at_work`, `finished`, `stopped` or `interrupted`.

        A run that can't be read is `damaged`, `other_version` or `unreadable`.
        """
        return self._listed.state

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code that the command would have had; None while a session is at work, or without one."""
        code = self._listed.exit_code
        return None if code is None else ExitCode(code)

    @property
    def summary(self) -> Summary:
        """The run in figures, as in summary.json: devices by status, rejects by reason, requests by outcome.

        Before a plan is sent, its devices are pending (or excluded by the ledger).

        Raises:
            RunFolderError: A file of the run is missing or damaged.
        """
        return summary_of(self._files) if self._files.journal.exists() else _summary_of_plan(self._files)

    @property
    def plan(self) -> pl.LazyFrame:
        """The planned devices in the order of their batches, as in plan.parquet.

        Columns: batch_id, source, row, imei, iccid, account_name, sku_number, held; others for a sync or a
        canary.
        """
        return _table(self._files.plan, PLAN)

    @property
    def rejects(self) -> pl.LazyFrame:
        """The rejected rows and why, as in rejects.parquet.

        Columns: source, row, reason, message, imei, iccid, account_name, sku_number, and those that are kept.
        """
        return _table(self._files.rejects, REJECTS)

    @property
    def results(self) -> pl.LazyFrame:
        """Each planned device with its status at the end of the last session, as in results.parquet.

        docs/reference/files.md has its columns. Before the first session has ended, it has no rows.
        """
        return _table(self._files.results, RESULTS)

    @property
    def audit(self) -> pl.LazyFrame:
        """Each request with its answer, as in audit.parquet. Before the first session has ended: no rows."""
        return _table(self._files.audit, AUDIT)

    @property
    def outcomes(self) -> pl.LazyFrame:
        """What callbacks reported, as in outcomes.parquet. Before the first of them: no rows."""
        return _table(self._files.outcomes, OUTCOMES)

    def report(self) -> Path:
        """The path of the report, report.html, which is made if it is missing.

        Raises:
            RunFolderError: Nothing was sent yet, or a file of the run is missing or damaged.
        """
        if not self._files.report.exists():
            write_report(self._files.report, report_of(self._files))
        return self._files.report

    def raise_for_status(self) -> Self:
        """Return the run if its exit code is 0, or if it has none yet.

        Raises:
            Incomplete: Some devices failed or are in doubt, or rows were rejected (exit code 3).
            StoppedEarly: The run stopped; `resume` continues it (exit code 6).
            BatchlicError: Another error with the run's exit code.
        """
        if (error := error_of(self.summary, self._files)) is not None:
            raise error
        return self

    def apply(self, *, on_event: Subscriber | None = None) -> "Run":
        """Send the plan, exactly as it was made. As `batchlic.apply`."""
        call = Apply(access=self._access, folder=self._files, on_event=on_event)
        return _run_of(self._files, self._access, done(call, when_stopped=self._advice))

    async def apply_async(self, *, on_event: Subscriber | None = None) -> "Run":
        """As `apply`, without blocking the event loop."""
        call = Apply(access=self._access, folder=self._files, on_event=on_event)
        return _run_of(self._files, self._access, await done_async(call, when_stopped=self._advice))

    def resume(
        self,
        *,
        new_ledger: bool = False,
        canary_failures: int | None = None,
        on_event: Subscriber | None = None,
    ) -> "Run":
        """Continue the run. A finished run is left as it is. As `batchlic.resume`."""
        call = self._resume(new_ledger=new_ledger, canary_failures=canary_failures, on_event=on_event)
        return _run_of(self._files, self._access, done(call, when_stopped=self._advice))

    async def resume_async(
        self,
        *,
        new_ledger: bool = False,
        canary_failures: int | None = None,
        on_event: Subscriber | None = None,
    ) -> "Run":
        """As `resume`, without blocking the event loop."""
        call = self._resume(new_ledger=new_ledger, canary_failures=canary_failures, on_event=on_event)
        return _run_of(self._files, self._access, await done_async(call, when_stopped=self._advice))

    def _resume(
        self, *, new_ledger: bool, canary_failures: int | None, on_event: Subscriber | None
    ) -> Resume:
        return Resume(
            access=self._access,
            folder=self._files,
            on_event=on_event,
            new_ledger=new_ledger,
            canary_failures=canary_failures,
        )

    @property
    def _advice(self) -> str:
        return advice_when_stopped(self._run_folder)

    @property
    def _files(self) -> RunFolder:
        """The folder; of a run in an object store, its copy is brought up to date."""
        refresh(self._run_folder.path)
        return self._run_folder

    @property
    def _listed(self) -> ListedRun:
        return listed_run(self._files)

    def __repr__(self) -> str:
        listed = self._listed
        return f"<batchlic.Run {listed.run_id or self.folder.name}: {_described(listed)}>"

    def _repr_html_(self) -> str:
        """The run as a table, for notebooks."""
        listed = self._listed
        figures = {
            "Run": listed.run_id or self.folder.name,
            "Job": listed.job,
            "State": _described(listed),
            "Rows read": listed.rows_read,
            "Rows rejected": sum(listed.rejected.values()),
            **{f"Devices {_words(status)}": number for status, number in listed.statuses.items()},
            "Folder": shown(str(self.folder)),
        }
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(_shown(value))}</td></tr>"
            for name, value in figures.items()
            if value is not None
        )
        return f"<table>{rows}</table>"


def _unpickled(folder: str, sandbox: Sandbox, warnings: tuple[str, ...]) -> Run:
    run = Run(folder, sandbox=sandbox)
    run.warnings = warnings
    return run


def advice_when_stopped(folder: RunFolder) -> str:
    """The note for an exception that stopped a run."""
    return f"batchlic: if anything was sent, continue with batchlic.resume({shown(str(folder.path))!r})"


def _described(listed: ListedRun) -> str:
    if listed.problem and not listed.statuses:
        return f"{_words(listed.state)}: {listed.problem}"
    statuses = ", ".join(f"{number:,} {_words(status)}" for status, number in listed.statuses.items())
    return f"{_words(listed.state)}, {statuses or f'{listed.planned or 0:,} planned'}"


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(path: Path | PathLike[str], schema: Schema) -> pl.LazyFrame:
    """The rows of a file, with the columns of this version and those that it has; no rows without it.

    Raises RunFolderError without its folder.
    """
    path = Path(path)
    if not path.exists():
        if not path.parent.is_dir():
            raise missing_folder(path.parent)
        return pl.LazyFrame(schema=schema)
    others = other_columns(path, schema)
    if not others:
        return read_table(path, schema)
    with explain_damage(path):
        found = scan_parquet(path).collect_schema()
    return read_table(path, {**schema, **{name: found[name] for name in others}})


def _summary_of_plan(folder: RunFolder) -> Summary:
    record, _ = read_plan_record(folder)
    excluded = {DeviceStatus(status): devices for status, devices in record.excluded.items()}
    pending = {DeviceStatus.PENDING: record.planned - sum(excluded.values())}
    job = record.planned_job
    return Summary(
        run_id=folder.path.name,
        job=job.name or job.action,
        action=job.action,
        carrier=record.carrier,
        sources=[InventoryRows(name, rows) for name, rows in record.sources],
        rows_read=record.rows_read,
        rejected=record.rejected,
        planned=record.planned,
        statuses=pending | excluded,
        batches=record.batches,
        requests={"total": 0},
        started_at=None,
        finished_at=None,
        devices_per_second=None,
        exit_code=None,
        notes=record.notes,
    )


def opened_run(run: StrPath | Run, settings: Settings | None, profile: str | None, sandbox: Sandbox) -> Run:
    """The run that a call names. A Run keeps what it was made with, unless the call says otherwise."""
    if not isinstance(run, Run):
        return Run(run, sandbox=sandbox, profile=profile, settings=settings)
    if settings is None and profile is None and sandbox is False:
        return run
    return Run(shown(str(run.folder)), sandbox=sandbox, profile=profile, settings=settings)


def _run_of(folder: RunFolder, access: Access, ended: Ended | None = None) -> Run:
    run = Run(shown(str(folder.path)), settings=access.settings, sandbox=access.sandbox)
    run.warnings = ended.warnings if ended is not None else ()
    return run


def running(start: Start) -> Run:
    """Start a run, and wait until it has ended."""
    ended = done(start, when_stopped=advice_when_stopped(start.folder))
    return _run_of(start.folder, start.access, ended)


async def running_async(start: Start) -> Run:
    """As `running`, without blocking the event loop."""
    ended = await done_async(start, when_stopped=advice_when_stopped(start.folder))
    return _run_of(start.folder, start.access, ended)


def planned(plan: Plan) -> Run:
    """Write a plan."""
    done(plan, when_stopped="batchlic: nothing was sent")
    return _run_of(plan.folder, plan.access)


async def planned_async(plan: Plan) -> Run:
    """As `planned`, without blocking the event loop."""
    await done_async(plan, when_stopped="batchlic: nothing was sent")
    return _run_of(plan.folder, plan.access)

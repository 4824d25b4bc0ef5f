"""What the functions of the API do: the same as the commands, in the thread of `batchlic.api.engine`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from batchlic.aliases import shown
from batchlic.api.inventories import Inventories
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    Incomplete,
    RefusedToStart,
    StoppedEarly,
    UsageError,
)
from batchlic.events import EventStream, Subscriber
from batchlic.job import EmbeddedSandbox, Job, MetricsUse
from batchlic.journal import SANDBOX
from batchlic.runs import apply, run
from batchlic.runs.explained import explained
from batchlic.runs.folder import RunFolder
from batchlic.runs.ledger_sync import snapshot_for_plan
from batchlic.runs.run_events import observed
from batchlic.runs.target import Target
from batchlic.sandbox import SandboxConfig
from batchlic.settings import Settings, load_settings
from batchlic.state import find_new_run, find_run, state_folder, with_state
from batchlic.targets import open_target
from batchlic.writer.summary import Summary

Sandbox: TypeAlias = bool | EmbeddedSandbox | SandboxConfig
"""True: the sandbox carrier that the job describes. Or a description of another one."""
StrPath: TypeAlias = str | PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which carrier a call talks to, and where its runs are."""

    settings: Settings
    sandbox: Sandbox = False

    @classmethod
    def of(cls, settings: Settings | None, profile: str | None, sandbox: Sandbox) -> "Access":
        """The settings that are given, or those of the environment. Raises UsageError for both.

        Also for a `sandbox` such as None: is the real carrier meant, or a sandbox?
        """
        if not isinstance(sandbox, Sandbox):
            kind = type(sandbox).__name__
            raise UsageError(
                f"sandbox: give True, False, an EmbeddedSandbox or a SandboxConfig, not a {kind}"
            )
        if settings is not None and profile is not None:
            raise UsageError("give settings or profile, not both: a profile is a name for settings")
        return cls(settings=settings or load_settings(profile), sandbox=sandbox)

    @property
    def carrier(self) -> str:
        """What runs record as the name of the carrier."""
        return self.settings.base_url if self.sandbox is False else SANDBOX

    def folder(self, run_dir: StrPath) -> RunFolder:
        """The folder of a run that exists: a path, or its name in the state folder."""
        return _absolute(find_run(str(run_dir), self.settings))

    def new_folder(self, run_dir: StrPath | None, run_id: str) -> RunFolder:
        """The folder of a new run: as given, or in the state folder."""
        if run_dir is not None:
            return _absolute(find_new_run(str(run_dir)))
        return _absolute(state_folder(self.settings) / run_id)

    @contextmanager
    def target(self, job: Job | None = None) -> Iterator[Target]:
        """The carrier; a sandbox ends with the block."""
        described = job.sandbox if job is not None else EmbeddedSandbox()
        sandbox = described if self.sandbox is True else self.sandbox or None
        with open_target(sandbox, self.settings) as target:
            yield target

    def with_state(self, job: Job, folder: RunFolder, run_dir: StrPath | None, *, ledger: bool = True) -> Job:
        """The job with store and ledger by the rules of `batchlic.state`."""
        given = None if run_dir is None else folder.path
        return with_state(job, folder, run_dir=given, ledger=ledger, settings=self.settings)


def _absolute(path: Path) -> RunFolder:
    """The folder, also if the program changes its current directory later, or another thread does."""
    return RunFolder(path.absolute())


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: the run in figures, and what went wrong with observers, as sentences."""

    summary: Summary
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run to start, or to continue if it is in the folder already."""

    access: Access
    job: Job
    inventories: Inventories
    run_dir: StrPath | None
    on_event: Subscriber | None
    run_id: str = field(default_factory=run.new_run_id)

    @cached_property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return self.access.new_folder(self.run_dir, self.run_id)

    def __call__(self) -> Ended:
        """Plan and send. Raises BatchlicError if the run is refused."""
        access, folder = self.access, self.folder
        job = self.job.with_default_account(access.settings.account)
        job = access.with_state(job, folder, self.run_dir, ledger=access.sandbox is False)

        def work(events: EventStream) -> Summary:
            events.problems += _unused_tables(job)
            with self.inventories.stored(), access.target(job) as target:
                return run.start(job, folder, target, run_id=self.run_id, events=events)

        return _ended(work, folder, self.on_event)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan to write, which `apply` sends later."""

    access: Access
    job: Job
    inventories: Inventories
    run_dir: StrPath | None
    licenses: bool
    run_id: str = field(default_factory=run.new_run_id)

    @cached_property
    def folder(self) -> RunFolder:
        """The folder of the plan."""
        return self.access.new_folder(self.run_dir, self.run_id)

    def __call__(self) -> None:
        """Write the plan. Raises BatchlicError if it is refused."""
        access, folder = self.access, self.folder
        job = access.with_state(self.job.with_default_account(access.settings.account), folder, self.run_dir)
        with explained(), ExitStack() as stack:
            stack.enter_context(self.inventories.stored())
            target = stack.enter_context(access.target(job)) if self.licenses else None
            snapshot = stack.enter_context(snapshot_for_plan(job, folder, access.carrier))
            planned, _ = apply.plan_for_review(job, folder, access.carrier, snapshot, target=target)
            job.require_consent(group.sku_number for group in planned.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """A plan to send."""

    access: Access
    folder: RunFolder
    on_event: Subscriber | None

    def __call__(self) -> Ended:
        """Send the plan, or continue its run. Raises BatchlicError if it is refused."""

        def work(events: EventStream) -> Summary:
            with self.access.target(apply.job_to_apply(self.folder)) as target:
                return apply.apply(self.folder, target, run_id=run.new_run_id(), events=events)

        return _ended(work, self.folder, self.on_event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A run to continue."""

    access: Access
    folder: RunFolder
    on_event: Subscriber | None
    new_ledger: bool
    canary_failures: int | None

    def __call__(self) -> Ended:
        """Send what is left of the run. Raises BatchlicError if it is refused."""

        def work(events: EventStream) -> Summary:
            with self.access.target() as target:
                return run.resume(
                    self.folder,
                    target,
                    allow_new_ledger=self.new_ledger,
                    canary_failures=self.canary_failures,
                    canary_confirmed=None if self.canary_failures is None else False,
                    events=events,
                )

        return _ended(work, self.folder, self.on_event)


def _ended(work: Callable[[EventStream], Summary], folder: RunFolder, on_event: Subscriber | None) -> Ended:
    """Do the work while `on_event` is told what happens. Raises the error of a run that was refused."""
    events = EventStream()
    with ExitStack() as attached:
        if on_event is not None:
            attached.enter_context(events.attached("on_event", on_event))
        summary = observed(events, lambda: work(events))
    error = error_of(summary, folder)
    if error is not None and error.exit_code not in {ExitCode.INCOMPLETE, ExitCode.STOPPED}:
        raise error
    return Ended(summary, tuple(events.problems))


def _unused_tables(job: Job) -> list[str]:
    """The tables of a job that tell somebody else about the run, as sentences: a program does that itself."""
    unused = {"notify": job.notify is not None, "metrics": job.metrics != MetricsUse()}
    return [
        f"the job's [{table}] is for the command line; give on_event to learn what happens in the run"
        for table, is_given in unused.items()
        if is_given
    ]


_ERRORS: dict[ExitCode, type[BatchlicError]] = {
    ExitCode.BUG: BatchlicError,
    ExitCode.USAGE: UsageError,
    ExitCode.INCOMPLETE: Incomplete,
    ExitCode.REFUSED: RefusedToStart,
    ExitCode.CREDENTIALS: CredentialsRejected,
    ExitCode.STOPPED: StoppedEarly,
}


def error_of(summary: Summary, folder: RunFolder) -> BatchlicError | None:
    """The error that stands for the exit code of a run; None for 0, and before the run has ended."""
    if not summary.exit_code:
        return None
    code = ExitCode(summary.exit_code)
    counts = [*summary.statuses.items(), ("rejected", sum(summary.rejected.values()))]
    figures = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts if number)
    return _ERRORS[code](f"{shown(str(folder.path))}: {summary.stopped_because or figures}")

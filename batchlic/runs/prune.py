"""Deletes old runs that nobody needs any more, and says why it keeps the others."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import msgspec

from batchlic.atomic import is_moved, remove_moved, remove_whole, staged_path
from batchlic.callbacks.matching import WINDOW
from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError, RefusedToStart, UsageError
from batchlic.figures import counted, time_in_files, time_on_terminal
from batchlic.journal import SANDBOX, Outline, RunIdentity, StorePlace
from batchlic.ledger import Ledger
from batchlic.ledger.files import open_existing
from batchlic.reader.validation.reasons import Reason
from batchlic.runs.approval import holds_only_approvals
from batchlic.runs.asking import Ask
from batchlic.runs.folder import RunFolder
from batchlic.runs.listing import UNKNOWN, ListedRun, RunState, list_runs, moved_folders, recorded_job
from batchlic.runs.related import ROLLBACK_FOLDER

CALLBACK_STORE = "callbacks.db"
"""The store of a listener that a run starts itself."""

_DAY_S = 24 * 3600
_SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")


class PrunedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was deleted, or would be. `bytes` is the size of its files."""

    run_dir: str
    run_id: str
    job: str
    ended_at: str
    bytes: int


class KeptRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was kept, and why. `is_trouble`: the reason is a problem that somebody has to solve."""

    run_dir: str
    run_id: str | None
    job: str | None
    reason: str
    is_trouble: bool = False


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """What `prune` did, or would do with `dry_run`."""

    folder: str
    dry_run: bool
    deleted: list[PrunedRun]
    kept: list[KeptRun]


class _Keep(Exception):
    """A run is kept; the text says why."""

    def __init__(self, reason: str, *, is_trouble: bool = False) -> None:
        super().__init__(reason)
        self.is_trouble = is_trouble


def prune(
    folder: Path,
    *,
    ended_before: datetime,
    dry_run: bool = False,
    has_store: bool = False,
    ask: Ask | None = None,
) -> Pruning:
    """Delete the runs in `folder` and below that ended before a time and that nobody needs any more.

    A run is kept while a process uses it, or it can be resumed; while devices are in doubt, or wait for
    callbacks; while the ledger, another run or the guards of its job need it; if it can't be read; and if its
    folder holds other files than those of a run. A run and the rollbacks in its folder go together. Folders
    that are no runs stay, and links are not followed.

    `has_store`: there is a store of callbacks, so a run with accepted devices has to be reconciled first.
    `ask` gets the question to confirm, and may raise RefusedToStart. With `dry_run`, nothing is asked or
    changed. Raises UsageError if there is no such folder, or if it is a run itself, and NoAccess if it can't
    be opened.
    """
    runs = _trees(list_runs(folder))
    if str(folder) in runs:
        raise UsageError(f"{folder}: this is a run; name the folder that holds the runs")
    cutoff = time_in_files(round(ended_before.timestamp() * 1e6))
    unfinished = [] if dry_run else list(_finish(folder))
    with ExitStack() as opened:
        judge = _Judge(cutoff, runs, _Ledgers(opened), has_store=has_store)
        chosen, kept = judge.all()
        if chosen and not dry_run and ask is not None:
            size = sum(run.bytes for run in chosen)
            ask(f"Delete {counted(len(chosen), 'run')} of {folder} ({size / 1e6:,.1f} MB)?")
        deleted = []
        for run in chosen:
            try:
                if not dry_run:
                    judge.delete(run)
                deleted.append(run)
            except _Keep as reason:
                kept.append(_kept(runs[run.run_dir][0], reason))
    return Pruning(folder=str(folder), dry_run=dry_run, deleted=deleted, kept=[*kept, *unfinished])


def _trees(runs: Sequence[ListedRun]) -> dict[str, list[ListedRun]]:
    """The runs by the path of the outermost run that they lie in; that run is the first one of its list."""
    trees: dict[str, list[ListedRun]] = {}
    for run in sorted(runs, key=lambda run: Path(run.run_dir).parts):
        outer = next((path for path in map(str, Path(run.run_dir).parents) if path in trees), run.run_dir)
        trees.setdefault(outer, []).append(run)
    return trees


def _finish(folder: Path) -> Iterator[KeptRun]:
    """Delete what earlier prunes have moved aside and not deleted; yields what can't be deleted now, too."""
    for moved in moved_folders(folder):
        try:
            remove_moved(moved)
        except OSError as error:
            reason = f"this is left of a deleted run, and can't be deleted: {error.strerror}"
            yield KeptRun(run_dir=str(moved), run_id=None, job=None, reason=reason, is_trouble=True)


class _Ledgers:
    """The ledgers of runs, each opened once."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._ledgers: dict[str, Ledger] = {}
        self._open_by_run: dict[str, dict[str, bool]] = {}
        self._errors: dict[str, BatchlicError] = {}

    def refuse_needed(self, identity: RunIdentity, *, again: bool = False) -> None:
        """Raise _Keep if the ledger of a run may need its folder. `again`: read the ledger once more."""
        path = _ledger_of(identity)
        if path is None:
            return
        is_open = self._read(path, again=again).get(identity.run_id)
        if is_open is None:
            raise _Keep(f"its ledger {path} does not have it: see `batchlic ledger import`", is_trouble=True)
        if is_open:
            raise _Keep(f"its ledger {path} does not have all that it did: the next run records that")

    def _read(self, path: str, *, again: bool) -> dict[str, bool]:
        try:
            if path in self._errors:
                raise self._errors[path]
            if path not in self._ledgers:
                self._ledgers[path] = self._opened.enter_context(open_existing(path))
            if again or path not in self._open_by_run:
                self._open_by_run[path] = self._ledgers[path].open_by_run()
        except BatchlicError as error:
            self._errors[path] = error
            raise _Keep(f"its ledger may have to be built again from it: {error}", is_trouble=True) from error
        return self._open_by_run[path]


def _ledger_of(identity: RunIdentity) -> str | None:
    """The path of the ledger of a run; None if it has none."""
    ledger = recorded_job(identity).ledger
    return None if identity.carrier == SANDBOX or not ledger.use else ledger.path


class _Judge:
    """Decides which runs can be deleted."""

    def __init__(
        self, cutoff: str, trees: dict[str, list[ListedRun]], ledgers: _Ledgers, *, has_store: bool
    ) -> None:
        self._cutoff = cutoff
        self._trees = trees
        self._ledgers = ledgers
        self._has_store = has_store
        self._retry_of: dict[str, str] = {}
        """The id of the run that a run retries, by the folder of the retry."""

    def all(self) -> tuple[list[PrunedRun], list[KeptRun]]:
        """The runs to delete, a run before its retries, and those to keep."""
        kept: dict[str, _Keep] = {}
        chosen: dict[str, PrunedRun] = {}
        newest = self._newest_of_jobs()
        for path, tree in self._trees.items():
            try:
                self._refuse(tree, is_newest=path in newest)
                chosen[path] = _pruned(Path(path), tree)
            except _Keep as reason:
                kept[path] = reason
        undecided = [run for path in kept for run in self._trees[path] if _may_be_settled(run)]
        open_runs = [(run, _span(run)) for run in undecided]
        for path in list(chosen):
            try:
                _refuse_evidence(self._trees[path], open_runs)
            except _Keep as reason:
                kept[path] = reason
                del chosen[path]
        for path in sorted(chosen, key=lambda path: self._trees[path][0].began_at or ""):
            run = chosen.pop(path)
            try:
                self._refuse_retry(path, lambda retried: retried not in chosen)
                chosen[path] = run
            except _Keep as reason:
                kept[path] = reason
        return list(chosen.values()), [_kept(self._trees[path][0], reason) for path, reason in kept.items()]

    def _refuse(self, tree: Sequence[ListedRun], *, is_newest: bool) -> None:
        for run in tree:
            self._refuse_young_or_open(run)
        if is_newest:
            raise _Keep("it is the last run of its job: --max-change compares the next one with it")
        if RunFolder(RunFolder(Path(tree[0].run_dir)).parent).journal.exists():
            raise _Keep("it is in the folder of a run, and is deleted with that run")
        for run in tree:
            self._refuse_needed(run)

    def delete(self, run: PrunedRun) -> None:
        """Delete a chosen run. Raises _Keep if it is used or has changed meanwhile, or can't be deleted."""
        folder = RunFolder(Path(run.run_dir))
        tree = [RunFolder(Path(listed.run_dir)) for listed in self._trees[run.run_dir]]
        try:
            with ExitStack() as locks:
                for nested in tree:
                    locks.enter_context(nested.locked())
                self._refuse_retry(run.run_dir, lambda retried: Path(retried).exists())
                for nested, listed in zip(tree, self._trees[run.run_dir], strict=True):
                    self._refuse_changed(nested, listed)
                places = [nested.journal for nested in tree]
                remove_whole(folder.path)
                for place in places:
                    if isinstance(place, StorePlace):
                        place.delete()
        except RefusedToStart as error:
            raise _Keep(str(error)) from error
        except (BatchlicError, OSError) as error:
            raise _Keep(f"can't be deleted: {error}", is_trouble=True) from error

    def _refuse_changed(self, folder: RunFolder, listed: ListedRun) -> None:
        outline = folder.journal.outline()
        is_same = outline.identity.run_id == listed.run_id and outline.is_at_rest
        if not is_same or time_in_files(outline.session_ends[-1].ended_at) != listed.ended_at:
            raise _Keep("it has changed meanwhile")
        self._ledgers.refuse_needed(outline.identity, again=True)
        _refuse_foreign_files(folder)

    def _newest_of_jobs(self) -> set[str]:
        """The outermost run folders with the last run of each job that had devices."""
        newest: dict[tuple[Path, str], ListedRun] = {}
        for tree in self._trees.values():
            run = tree[0]
            if run.job_key is None or not (run.planned or run.rejected.get(Reason.NO_LICENSE)):
                continue
            job = Path(run.run_dir).parent, run.job_key
            if job not in newest or (run.began_at or "") > (newest[job].began_at or ""):
                newest[job] = run
        return {run.run_dir for run in newest.values()}

    def _refuse_young_or_open(self, run: ListedRun) -> None:
        """Raise _Keep for reasons that the list of runs shows."""
        if run.process is not None:
            raise _Keep(f"at work (pid {run.process.pid} on {run.process.host})")
        if run.state in UNKNOWN:
            raise _Keep(f"can't be read: {run.problem}", is_trouble=True)
        if run.state is RunState.PLANNED:
            raise _Keep("it is only a plan, which may still be sent")
        if run.state is not RunState.FINISHED or run.statuses.get(DeviceStatus.PENDING):
            resume = RunFolder(Path(run.run_dir)).resuming(run.carrier)
            raise _Keep(f"not finished: {resume}")
        if run.problem is not None:
            raise _Keep(run.problem, is_trouble=True)
        if run.ended_at is None or run.ended_at >= self._cutoff:
            raise _Keep(f"ended at {time_on_terminal(run.ended_at or 'an unknown time')}")

    def _refuse_needed(self, run: ListedRun) -> None:
        """Raise _Keep for reasons that are in the run's folder or in its ledger."""
        folder = RunFolder(Path(run.run_dir))
        try:
            outline = folder.journal.outline()
            excluded = outline.identity.excluded
            if outline.identity.retry_of is not None:
                self._retry_of[run.run_dir] = outline.identity.retry_of
            in_doubt = run.statuses.get(DeviceStatus.IN_DOUBT, 0) - excluded.get(DeviceStatus.IN_DOUBT, 0)
            if in_doubt:
                raise _Keep(f"{counted(in_doubt, 'device')} in doubt: batchlic settle {folder.argument}")
            self._refuse_unconfirmed(run, folder, outline)
            self._ledgers.refuse_needed(outline.identity)
            _refuse_foreign_files(folder)
            _refuse_copy(folder)
        except (BatchlicError, OSError) as error:
            raise _Keep(f"can't be read: {error}", is_trouble=True) from error

    def _refuse_retry(self, path: str, is_kept: Callable[[str], bool]) -> None:
        """Raise _Keep if a run retries one beside it that is kept.

        Another retry of that run leaves out the devices that this one planned (runs.retry).
        """
        run_id = self._retry_of.get(path)
        for beside, tree in self._trees.items() if run_id is not None else ():
            is_retried = tree[0].run_id == run_id and Path(beside).parent == Path(path).parent
            if is_retried and is_kept(beside):
                raise _Keep(
                    f"it is a retry of run {run_id}, which is kept: another retry of that one needs it"
                )

    def _refuse_unconfirmed(self, run: ListedRun, folder: RunFolder, outline: Outline) -> None:
        accepted = run.statuses.get(DeviceStatus.ACCEPTED, 0)
        if not accepted:
            return
        devices = f"{counted(accepted, 'accepted device')} not confirmed"
        if recorded_job(outline.identity).limits.require_confirmation:
            raise _Keep(f"{devices}, and its job requires that: batchlic reconcile {folder.argument}")
        is_reconciled = folder.outcomes.name in outline.file_hashes
        if not is_reconciled and (self._has_store or (folder.path / CALLBACK_STORE).exists()):
            raise _Keep(f"{devices}, and its callbacks were never read: batchlic reconcile {folder.argument}")
        if time.time() - outline.session_ends[-1].ended_at / 1e6 < WINDOW.total_seconds():
            raise _Keep(f"{devices}: callbacks may still come")


# -- what other runs need -------------------------------------------------------------------------------


def _may_be_settled(run: ListedRun) -> bool:
    """Whether callbacks may still decide about a request of a run whose answer was lost."""
    undecided = (DeviceStatus.PENDING, DeviceStatus.IN_DOUBT, DeviceStatus.ACCEPTED)
    if _sent_nothing(run):
        return False
    if run.state is RunState.FINISHED:
        return bool(run.requests.get(Outcome.AMBIGUOUS)) and any(map(run.statuses.get, undecided))
    return run.state is not RunState.PLANNED


def _sent_nothing(run: ListedRun) -> bool:
    """Whether it is known that a run sent no request: its credentials were rejected, for example."""
    return run.requests.get("total") == 0


_Span: TypeAlias = tuple[float, float]
"""When a run began and ended, in seconds since 1970."""


def _refuse_evidence(tree: Sequence[ListedRun], open_runs: Sequence[tuple[ListedRun, _Span]]) -> None:
    """Raise _Keep if a run that is not decided needs one of the `tree`.

    A callback about an unknown request may be about a lost one of that run. So `reconcile` needs the journals
    of all runs that sent requests at that time, in order to know theirs (callbacks.matching).
    """
    for run in tree:
        if _sent_nothing(run):
            continue
        span = _span(run)
        for other, other_span in open_runs:
            if run.carrier == (other.carrier or run.carrier) and _may_meet(span, other_span):
                raise _Keep(
                    f"run {other.run_id or other.run_dir}, which sent requests at that time, is not decided: "
                    "its callbacks can be told apart only by this journal"
                )


def _may_meet(span: _Span, other: _Span) -> bool:
    """Whether two runs may have sent requests within a day of each other."""
    (began, ended), (other_began, other_ended) = span, other
    return began <= other_ended + _DAY_S and other_began <= ended + _DAY_S


def _span(run: ListedRun) -> _Span:
    """When a run began and ended; unknown times are those of its files."""
    written = [0.0]
    for name in ("", "journal.db", "journal.db-wal"):
        with suppress(OSError):
            written.append(Path(run.run_dir, name).stat().st_mtime)
    began, ended = (
        max(written) if time is None else datetime.fromisoformat(time).timestamp()
        for time in (run.began_at, run.ended_at)
    )
    return began, math.inf if run.process else ended


# -- files ----------------------------------------------------------------------------------------------


def _refuse_foreign_files(folder: RunFolder) -> None:
    """Raise _Keep if the folder holds something that is not of a run."""
    published = (*folder.published_files, folder.report)
    planned = (folder.plan, folder.plan_record, folder.rejects, folder.kept, folder.retried)
    of_session = (folder.store_record, folder.log, folder.lock, folder.limits, folder.limits_request)
    own = {path.name for path in (*planned, *of_session, *published)}
    own |= {staged_path(path).name for path in published}
    databases = (folder.journal_file.name, CALLBACK_STORE)
    own |= {f"{name}{suffix}" for name in databases for suffix in _SQLITE_SUFFIXES}
    names = sorted(path.name for path in folder.path.iterdir())
    foreign = [name for name in names if name not in own and not _is_own(folder, name)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise _Keep(f"its folder holds files that are not of a run: {shown}")


def _refuse_copy(folder: RunFolder) -> None:
    """Raise _Keep if the folder is a copy of that of a run in a store: the run needs the journal, too."""
    if not isinstance(folder.journal, StorePlace):
        return
    first = RunFolder(Path(folder.journal.first_folder()))
    if first.named_store == folder.named_store and not first.path.samefile(folder.path):
        raise _Keep(f"it is a copy of {first.path}, which has the same journal: delete the folder by hand")


def _is_own(folder: RunFolder, name: str) -> bool:
    """Whether a name is that of a rollback, or of what a killed process left."""
    path = folder.path / name
    if path == folder.approvals:
        return holds_only_approvals(path)
    if name.startswith(ROLLBACK_FOLDER):
        return RunFolder(path).has_run and not path.is_symlink()
    return is_moved(name) or name.startswith(".scratch-") or (name.startswith(".") and ".tmp" in name)


def _pruned(path: Path, tree: Sequence[ListedRun]) -> PrunedRun:
    run = tree[0]
    size = 0
    for file in _files(path):
        with suppress(FileNotFoundError):  # another prune may delete it at this moment
            size += file.lstat().st_size
    return PrunedRun(
        run_dir=run.run_dir,
        run_id=run.run_id or "",
        job=run.job or "",
        ended_at=max(run.ended_at or "" for run in tree),
        bytes=size,
    )


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        yield from (Path(path) / name for name in names)


def _kept(run: ListedRun, reason: _Keep) -> KeptRun:
    return KeptRun(
        run_dir=run.run_dir,
        run_id=run.run_id,
        job=run.job,
        reason=str(reason),
        is_trouble=reason.is_trouble,
    )

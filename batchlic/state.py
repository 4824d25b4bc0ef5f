"""The state folder: where runs and the ledger are, whatever the current directory is.

The folder is the first of these:

1. `BATCHLIC_STATE_DIR`
2. `STATE_DIRECTORY`, which systemd sets for a unit with `StateDirectory=`
3. `runs` in the current directory, if there is such a folder
4. `$XDG_STATE_HOME/batchlic`, or else `~/.local/state/batchlic`

With a store (`BATCHLIC_STORE`), the ledger is the one in the store.

A ledger must not split in two unnoticed. So without `BATCHLIC_STATE_DIR`, the folder that has a ledger comes
before those without one, and two ledgers are an error. A store without a ledger is an error, too, if the
state folder has one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.atomic import refuse_undecodable
from batchlic.errors import RunFolderError, UsageError
from batchlic.objectstore.addresses import is_remote
from batchlic.objectstore.copies import is_copy, local_run, local_runs
from batchlic.settings import Settings, load_settings

if TYPE_CHECKING:
    from batchlic.job import Job
    from batchlic.runs.folder import RunFolder

LEDGER = "ledger.db"


class _NoStateFolder(UsageError):
    """No folder is known, as in a container whose user has no home folder."""


def state_folder(settings: Settings | None = None) -> Path:
    """The state folder, relative to the current directory if it is inside. It may not exist yet.

    `settings` are those to use; None: they are read. Raises UsageError if there are two ledgers, if no folder
    is known, and for wrong settings.
    """
    given = (settings or load_settings()).state_dir
    folder = Path(given) if given else _chosen(_candidates())
    refuse_undecodable(os.path.abspath(folder))  # noqa: PTH100
    return _short(folder)


def find_ledger(run_dir: Path | None = None, settings: Settings | None = None) -> Path | str:
    """The ledger, which may not exist yet: the store, or else the file of `ledger_file`."""
    settings = settings or load_settings()
    return settings.store_name or ledger_file(run_dir, settings)


def ledger_file(run_dir: Path | None = None, settings: Settings | None = None) -> Path:
    """The absolute path of a ledger without a store: `ledger.db` in the state folder.

    Without `BATCHLIC_STATE_DIR`, a `run_dir` that the operator names takes the ledger with it: the ledger is
    beside that folder. Raises as `state_folder` does.
    """
    given = (settings or load_settings()).state_dir
    if run_dir is not None and not given and not is_copy(run_dir):
        folder = Path(os.path.abspath(run_dir)).parent  # noqa: PTH100 - the parent of a link, not of its target
    else:
        folder = Path(given) if given else _chosen(_candidates())
    ledger = Path(os.path.abspath(folder)) / LEDGER  # noqa: PTH100
    refuse_undecodable(ledger)
    return ledger


def with_state(
    job: Job,
    folder: RunFolder,
    *,
    run_dir: Path | None = None,
    ledger: bool = True,
    settings: Settings | None = None,
) -> Job:
    """The job with its store and its ledger by the rules of this module, unless it or its run names them.

    `folder` is that of the run, and `run_dir` what the operator named. Without `ledger`, the job gets none.
    """
    settings = settings or load_settings()
    job = job.with_store(settings.store_name)
    if job.store.url is not None:
        _remember_lease(job.store.url, settings)
    if not ledger or job.ledger.path or not job.ledger.use or folder.journal.exists():
        return job
    if job.store.url is None:
        return job.with_ledger(ledger_file(run_dir, settings))
    _refuse_split(job.store.url, run_dir, settings)
    return job.with_ledger(job.store.url)


def _refuse_split(store: str, run_dir: Path | None, settings: Settings) -> None:
    """Raise UsageError if a file has the ledger, and the store has none yet."""
    from batchlic.ledger.places import place_of  # noqa: PLC0415 - only runs in a store need it

    try:
        file = ledger_file(run_dir, settings)
    except _NoStateFolder:
        return
    except UsageError:  # there are two files
        if place_of(store).exists():
            return
        raise
    if file.exists() and not place_of(store).exists():
        raise UsageError(
            f"{store}: there is no ledger in this database yet, but {file} is one. Take it over: `batchlic "
            f"ledger export --ledger {file} --to known.parquet`, then `batchlic ledger import known.parquet "
            f"{file.parent}`. Or keep using the file: --ledger {file}"
        )


def find_run(given: str, settings: Settings | None = None) -> Path:
    """The run folder that a command names: a path, or the name of a folder in the state folder.

    For an address in an object store, it is a local copy. Raises as `local_run` does.
    """
    found = local_run(given) if is_remote(given) else _find_run(given, settings)
    if (found / "store.json").exists():
        from batchlic.journal.store_record import read_store_record  # noqa: PLC0415 - SQLAlchemy

        settings = settings or load_settings()  # they may have the password of the store
        with suppress(RunFolderError):  # the command says what is wrong with the folder
            if (record := read_store_record(found / "store.json")) is not None:
                _remember_lease(record.store, settings)
    return found


def remember_store() -> None:
    """Let the journals in a store be read: the settings may have its password. Wrong settings do no harm."""
    with suppress(UsageError):
        load_settings()


def _remember_lease(store: str, settings: Settings) -> None:
    """Let sessions of this process hold what is in a store for as long as the settings say."""
    from batchlic.database import postgresql  # noqa: PLC0415 - SQLAlchemy

    postgresql.remember(store, what="[store] url", lease_s=settings.lease_s)


def _find_run(given: str, settings: Settings | None) -> Path:
    if os.path.lexists(given) or os.sep in given or given in {"", os.curdir, os.pardir}:
        return Path(given)
    run = state_folder(settings) / given
    return run if run.is_dir() else Path(given)


def find_new_run(given: str) -> Path:
    """The run folder that a new run is to have: a path, or the local copy of one in an object store.

    Raises as `local_run` does.
    """
    return local_run(given) if is_remote(given) else Path(given)


def find_runs(given: str) -> Path:
    """The folder of runs that a command names: a path, or a local one with copies of those at an address.

    Of a run's own address, it is the copy of that run. Raises as `local_runs` does.
    """
    remember_store()
    if not is_remote(given):
        return find_run(given)
    is_run = given.rstrip("/").count("/") > 2 and (run := local_run(given)).exists()
    return run if is_run else local_runs(given)


def _candidates() -> list[Path]:
    """The folders that may be the state folder, the first choice first. Raises UsageError without any."""
    runs = Path("runs") if os.path.isdir("runs") else None  # noqa: PTH112 - no error without access
    folders = [_systemd_folder(), runs, _user_folder()]
    if candidates := [folder for folder in folders if folder is not None]:
        return candidates
    raise _NoStateFolder("there is no home folder to keep runs and the ledger in: set BATCHLIC_STATE_DIR")


def _systemd_folder() -> Path | None:
    """The first folder of `StateDirectory=`: https://www.freedesktop.org/software/systemd/man/systemd.exec."""
    first = Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0])
    return first if first.is_absolute() else None


def _user_folder() -> Path | None:
    """The folder by https://specifications.freedesktop.org/basedir-spec; it ignores relative paths."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given / "batchlic"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ".local" / "state" / "batchlic" if home.is_absolute() else None


def _chosen(candidates: Iterable[Path]) -> Path:
    """The candidate that has a ledger, or else the first one."""
    folders: dict[str, Path] = {}
    for folder in candidates:
        folders.setdefault(os.path.realpath(folder), folder)
    with_ledger = [folder for folder in folders.values() if os.path.lexists(folder / LEDGER)]
    if len(with_ledger) > 1:
        ledgers = " and ".join(str(folder / LEDGER) for folder in with_ledger)
        raise UsageError(
            f"there are two ledgers, {ledgers}: name the right folder with BATCHLIC_STATE_DIR, "
            "or the right file with --ledger"
        )
    return next(iter(with_ledger or folders.values()))


def _short(folder: Path) -> Path:
    try:
        here = Path.cwd()
        return folder if here == here.parent else folder.relative_to(here)
    except (ValueError, OSError):
        return folder

"""The arguments that commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from batchlic.cli.completion import complete_runs
from batchlic.errors import UsageError

Inventories = Annotated[
    list[str], typer.Argument(metavar="INVENTORY", help="Files or addresses that list the devices.")
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file; `batchlic init` writes one.")]


def refuse_unusable_target(path: Path) -> None:
    """Raise UsageError if no file can be written at `path`, because its folder is missing, for example.

    The files of a run and databases, such as a ledger, must not be replaced.
    """
    from batchlic.database.files import is_database
    from batchlic.runs.folder import RunFolder

    folder = path.parent
    if path.is_dir():
        raise UsageError(f"--to {path}: this is a folder; give the name of a file")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"--to {path}: the folder {folder} {what}; make it, or give another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--to {path}: you may not write in the folder {folder}; give another path")
    target = path.resolve()
    beside = RunFolder(target.parent)
    if beside.is_used and target in beside.own_files:
        raise UsageError(f"--to {path}: this is a file of a run; give another path")
    if path.is_file() and os.access(path, os.R_OK) and is_database(path):
        raise UsageError(f"--to {path}: this is a database; give another path")


def find_run_folder(given: str) -> Path:
    """The folder that RUN_DIR names. Raises UsageError as `state_folder` does."""
    from batchlic.state import find_run

    return find_run(given)


def find_new_run_folder(given: str) -> Path:
    """The folder that --run-dir names. Raises UsageError as `find_new_run` does."""
    from batchlic.state import find_new_run

    return find_new_run(given)


def find_runs_folder(given: str) -> Path:
    """The folder of runs that an argument names. Raises UsageError as `find_runs` does."""
    from batchlic.state import find_runs

    return find_runs(given)


def path_on_disk(given: str) -> Path:
    """A path that an option names. Raises UsageError for an address in an object store."""
    from batchlic.objectstore.addresses import is_remote

    if is_remote(given):
        raise UsageError(f"{given}: this can't be in an object store: give a path on a disk")
    return Path(given)


def ledger_location(given: str) -> str:
    """A ledger that an option names: a path on a disk, or the URL of a database."""
    from batchlic.objectstore.addresses import is_remote

    return given if "://" in given and not is_remote(given) else str(path_on_disk(given))


RunDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR",
        help="Run folder, or its name in the state folder.",
        parser=find_run_folder,
        autocompletion=complete_runs,
    ),
]

"""The inputs that a command line or job names: files, globs, folders, standard input, cloud objects."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchlic.errors import InventoryError, UsageError
from batchlic.reader.streams import STDIN, is_remote


def expanded(names: Sequence[str]) -> list[str]:
    """One name per input, in the order given; within a glob or a folder, in the order of their names.

    A name is kept as it was given, for it becomes the `source` of its rows: plans do not depend on where
    on a machine the inventories lie. Raises InventoryError where there is no such file, UsageError where
    one is named twice.
    """
    inputs = [name for given in names for name in _inputs(given)]
    seen: dict[Path | str, str] = {}
    for name in inputs:
        same = name if name == STDIN or is_remote(name) else Path(name).resolve()
        if same in seen:
            raise UsageError(f"{name}: given twice (as {seen[same]} before): leave one out")
        seen[same] = name
    if not inputs:
        raise UsageError("no inventory is given: name a file, a folder, a glob, or - for standard input")
    return inputs


def _inputs(given: str) -> Iterator[str]:
    if given == STDIN or is_remote(given):
        yield given
        return
    path = Path(given)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file, path)]
        if not found:
            raise InventoryError(f"{given}: there is no file in this folder")
        yield from map(str, found)
    elif path.exists() or not glob.has_magic(given):
        yield given
    else:
        matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches:
            raise InventoryError(f"{given}: no file matches")
        yield from matches


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)

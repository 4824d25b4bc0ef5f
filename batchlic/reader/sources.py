"""Finds the inputs that a command line or job names: files, globs, folders, standard input, cloud objects."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchlic.errors import InventoryError, UsageError
from batchlic.reader.streams import STDIN, is_remote


def expanded(names: Sequence[str]) -> list[str]:
    """One name per input, in the order given; within a glob or a folder, in the order of the names.

    A name stays as given, because it is the `source` of its rows: so a plan does not depend on the folder
    that the inventories are in. Raises InventoryError if a file does not exist, and UsageError if a file is
    named twice.
    """
    inputs = [name for given in names for name in _inputs(given)]
    names_by_input: dict[Path | str, str] = {}
    for name in inputs:
        resolved = name if name == STDIN or is_remote(name) else Path(name).resolve()
        if resolved in names_by_input:
            raise UsageError(f"{name}: given twice (first as {names_by_input[resolved]}): remove one")
        names_by_input[resolved] = name
    if not inputs:
        raise UsageError("no inventory is given: name a file, a folder, a glob, or - for standard input")
    return inputs


def _inputs(given: str) -> Iterator[str]:
    if given == STDIN or is_remote(given):
        yield given
        return
    path = Path(given)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file, path)]
        if not found:
            raise InventoryError(f"{given}: there is no file in this folder")
        yield from map(str, found)
    elif path.exists() or not glob.has_magic(given):
        yield given
    else:
        matches = sorted(glob.glob(_pattern(given), recursive=True))  # noqa: PTH207 - may be absolute
        if not matches:
            raise InventoryError(f"{given}: no file matches")
        yield from matches


def _pattern(given: str) -> str:
    """A glob in which the folders that exist under their names as given stand for themselves."""
    slashes = (at + 1 for at in range(len(given) - 1, -1, -1) if given[at] == "/")
    start = next((at for at in slashes if Path(given[:at]).is_dir()), 0)
    return glob.escape(given[:start]) + given[start:]


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)

"""Finds the inputs that a command line or job names: files, globs, folders, standard input, cloud objects."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchlic.errors import InventoryError, UsageError
from batchlic.reader.left_out import is_left_out, is_run_folder
from batchlic.reader.streams import STDIN, is_remote

SHOWN = 10
"""Files left out that a note names."""


@dataclass(slots=True)
class Inputs:
    """The names of inputs, in the order given, and of the files in folders and globs that are left out.

    Within a folder or a glob, the inputs are in the order of their names. A name stays as given, because it
    is the `source` of its rows: so a plan does not depend on the folder that the inventories are in.
    """

    names: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What is left out, for the operator."""
        if not self.left_out:
            return []
        more = f" and {len(self.left_out) - SHOWN} more" if len(self.left_out) > SHOWN else ""
        return [f"left out, because they are no inventories: {', '.join(self.left_out[:SHOWN])}{more}"]


def expanded(names: Sequence[str]) -> Inputs:
    """The inputs that the names stand for.

    Raises InventoryError if a file does not exist or a folder is a table of another program, and UsageError
    if a file is named twice.
    """
    inputs = Inputs()
    for given in names:
        _add(given, inputs)
    names_by_input: dict[Path | str, str] = {}
    for name in inputs.names:
        resolved = name if name == STDIN or is_remote(name) else Path(name).resolve()
        if resolved in names_by_input:
            raise UsageError(f"{name}: given twice (first as {names_by_input[resolved]}): remove one")
        names_by_input[resolved] = name
    if not inputs.names:
        raise UsageError("no inventory is given: name a file, a folder, a glob, or - for standard input")
    return inputs


def _add(given: str, inputs: Inputs) -> None:
    path = Path(given)
    if given == STDIN or is_remote(given):
        inputs.names.append(given)
    elif _ADDRESS.match(given) and not path.exists():
        raise InventoryError(
            f"{given.partition('://')[0]}://…: batchlic does not read such addresses: download the file "
            f"first, and name it"
        )
    elif path.is_dir():
        _add_folder(given, inputs)
    elif path.exists() or not glob.has_magic(given):
        inputs.names.append(given)
    else:
        matches = sorted(glob.glob(_pattern(given), recursive=True))  # noqa: PTH207 - may be absolute
        files = [match for match in matches if not is_left_out(Path(match).name)]
        inputs.left_out.extend(match for match in matches if match not in files)
        if not files:
            raise InventoryError(f"{given}: no file matches")
        for match in files:
            _add(match, inputs)


def _add_folder(given: str, inputs: Inputs) -> None:
    folder = Path(given)
    for mark, table in _TABLES.items():
        if any(folder.glob(mark)):
            raise InventoryError(
                f"{given}: {table}, whose folder also holds deleted rows: export its rows as parquet or CSV"
            )
    before = len(inputs.names)
    for file in _files(folder, inputs):
        if is_left_out(file.relative_to(folder).as_posix()):
            if not file.name.startswith("."):
                inputs.left_out.append(str(file))
        else:
            inputs.names.append(str(file))
    if len(inputs.names) == before:
        raise InventoryError(f"{given}: there is no inventory in this folder")


_TABLES = {
    "_delta_log/*.json": "a Delta table",
    "metadata/*.metadata.json": "an Iceberg table",
    ".hoodie": "a Hudi table",
}


def _files(folder: Path, inputs: Inputs) -> Iterator[Path]:
    """The files in a folder and its subfolders, sorted, without those of runs of batchlic."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if is_run_folder(path):
                inputs.left_out.append(str(path))
            else:
                yield from _files(path, inputs)
        elif path.is_file():
            yield path


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def _pattern(given: str) -> str:
    """A glob in which the folders that exist under their names as given stand for themselves."""
    slashes = (at + 1 for at in range(len(given) - 1, -1, -1) if given[at] == "/")
    start = next((at for at in slashes if Path(given[:at]).is_dir()), 0)
    return glob.escape(given[:start]) + given[start:]

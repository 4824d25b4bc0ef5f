"""Finds the inputs that a command line or job names, from files, globs and folders to databases."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchlic.atomic import refuse_undecodable
from batchlic.errors import InventoryError, UsageError
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.inputs.addresses import Address, address_of, other_address_error, refuse_cloud_secrets
from batchlic.reader.inputs.databases import Database, database_of
from batchlic.reader.inputs.frames import Frame, frame_of
from batchlic.reader.inputs.left_out import is_left_out, is_run_folder
from batchlic.reader.inputs.streams import STDIN

SHOWN = 10
"""Files left out that a note names."""


@dataclass(slots=True)
class Inputs:
    """The names of inputs, in the order given, and of the files in folders and globs that are left out.

    Within a folder or a glob, the inputs are in the order of their names. A name stays as given, because it
    is the `source` of its rows: so a plan does not depend on the folder that the inventories are in. An
    address is shown without its query and login; if another one is shown alike, with its number (`#2`).
    """

    names: list[str | Address | Database | Frame] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    numbered: dict[str, int] = field(default_factory=dict)

    @property
    def databases(self) -> list[Database]:
        """The inputs that are databases."""
        return [name for name in self.names if isinstance(name, Database)]

    @property
    def notes(self) -> list[str]:
        """What is left out or renamed, for the operator."""
        notes = [
            f"{name}: the address {number} of those that differ only in what is not shown"
            for name, number in self.numbered.items()
        ]
        if not self.left_out:
            return notes
        more = f" and {len(self.left_out) - SHOWN} more" if len(self.left_out) > SHOWN else ""
        shown = ", ".join(self.left_out[:SHOWN]).encode(errors="backslashreplace").decode()
        return [*notes, f"left out, because they are no inventories: {shown}{more}"]


def expanded(names: Sequence[str]) -> Inputs:
    """The inputs that the names stand for.

    Raises InventoryError if a file does not exist, if an address is of a kind that is not read, or if a
    folder is a table of another program, and UsageError if a file is named twice.
    """
    inputs = Inputs()
    for given in names:
        _add(given, inputs)
    for name in inputs.names:
        refuse_undecodable(str(name))
    names_by_input: dict[str, str | Address | Database | Frame] = {}
    for name in inputs.names:
        resolved = _identity(name)
        if resolved in names_by_input:
            raise UsageError(f"{name}: given twice (first as {names_by_input[resolved]}): remove one")
        names_by_input[resolved] = name
    if not inputs.names:
        raise UsageError(
            "no inventory is given: name a file, a folder, a glob, an address, a database, or - for standard "
            "input"
        )
    _number_equal_names(inputs)
    return inputs


def _number_equal_names(inputs: Inputs) -> None:
    """Give addresses that are shown alike different names, because `source` and `row` identify a row."""
    seen: Counter[str] = Counter()
    for at, name in enumerate(inputs.names):
        if isinstance(name, Address):
            seen[name.shown] += 1
            if (number := seen[name.shown]) > 1:
                shown = f"{name.shown}#{number}"
                inputs.names[at] = replace(name, shown=shown)
                inputs.numbered[shown] = number


def _identity(name: str | Address | Database | Frame) -> str:
    if isinstance(name, Address):
        return name.url
    if isinstance(name, Frame):
        return name.name
    if isinstance(name, Database):
        return os.path.realpath(name.path) if name.path else name.name
    return name if name == STDIN or is_remote(name) else os.path.realpath(name)


def _add(given: str, inputs: Inputs) -> None:
    path = Path(given)
    if found := frame_of(given) or address_of(given) or database_of(given):
        inputs.names.append(found)
    elif given == STDIN:
        inputs.names.append(given)
    elif is_remote(given):
        refuse_cloud_secrets(given)
        inputs.names.append(given)
    elif not path.exists() and (error := other_address_error(given)):
        raise error
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
    """The files in a folder and its subfolders, sorted, without those of runs of batchlic.

    Raises InventoryError if one of the folders is a table of another program.
    """
    for mark, table in _TABLES.items():
        if any(folder.glob(mark)):
            raise InventoryError(
                f"{folder}: {table}, whose folder also holds deleted rows: export its rows as parquet or CSV"
            )
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if is_run_folder(path):
                inputs.left_out.append(str(path))
            else:
                yield from _files(path, inputs)
        elif path.is_file() or (path.is_symlink() and not path.exists()):  # a broken link is refused later
            yield path


def _pattern(given: str) -> str:
    """A glob in which the folders that exist under their names as given stand for themselves."""
    slashes = (at + 1 for at in range(len(given) - 1, -1, -1) if given[at] == "/")
    start = next((at for at in slashes if Path(given[:at]).is_dir()), 0)
    return glob.escape(given[:start]) + given[start:]

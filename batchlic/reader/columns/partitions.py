"""Reads the folders of a partitioned table (`account=0000123456-00001/part-0.parquet`) as columns."""

from dataclasses import replace
from pathlib import PurePath
from urllib.parse import unquote

from batchlic.reader.columns import matching
from batchlic.reader.columns.headers import fold
from batchlic.reader.inventory import Inventory
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import kept_cell

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of rows without a value."""


def with_folders(inventory: Inventory, options: ReadOptions, inside: str = "") -> Inventory:
    """The inventory with the cells that the names of its folders give to all rows.

    `inside`: the path of the inventory in its archives, which its name may lack.

    A cell of the file, and `options.columns`, win over a folder.
    """
    names = (*PurePath(inventory.name).parts[:-1], *PurePath(inside).parts[:-1])
    parts = [part.partition("=") for part in names]
    folders = {key: unquote(value) for key, equals, value in parts if equals and value not in {"", NO_VALUE}}
    if not folders:
        return inventory
    headers = list(folders)
    found = matching.by_header(inventory.name, headers, replace(options, columns={}, profile=None))
    constants = {
        role: folders[headers[position]]
        for role, position in found.positions.items()
        if role not in options.columns
    }
    notes = [
        f"{inventory.name}: {role} {cell!r} from the name of its folder" for role, cell in constants.items()
    ]
    kept = {
        kept_cell(name): cell
        for name, column in options.keep.items()
        for header, cell in folders.items()
        if fold(header) == fold(column)
    }
    return replace(
        inventory,
        constants={role.value: cell for role, cell in constants.items()} | kept,
        roles=inventory.roles | constants.keys(),
        notes=(*inventory.notes, *notes),
    )

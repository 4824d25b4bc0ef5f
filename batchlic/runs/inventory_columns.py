"""Looks at the beginning of an inventory: which of its columns would be read."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from batchlic.job import Job
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.formats.opening import inventories
from batchlic.reader.inputs.sources import expanded
from batchlic.reader.inputs.streams import STDIN


@dataclass(frozen=True, slots=True)
class ColumnsFound:
    """The columns of one inventory: the header by role (imei, iccid, account, sku), and notes about them.

    A role without a header has a constant cell, or a column without a header.
    """

    name: str
    headers: Mapping[str, str]
    notes: Sequence[str]

    def __contains__(self, role: str) -> bool:
        return role in self.headers


def columns_of(job: Job) -> list[ColumnsFound]:
    """The columns of the first inventory in each file of a job; files on other machines are left out.

    Raises InventoryError as a run would: if a file is missing, or has no column with an identifier.
    """
    found = []
    for name in expanded(job.inventory.files).names:
        if not isinstance(name, str) or name == STDIN or is_remote(name):
            continue
        with ExitStack() as files:
            inventory = next(inventories(name, job.read_options(), files))
            headers = {str(role): inventory.headers.get(role, "") for role in sorted(inventory.roles)}
            found.append(ColumnsFound(inventory.name, headers, inventory.notes))
    return found

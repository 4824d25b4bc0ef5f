"""What the rows of an inventory show as a whole: columns of cut numbers, and accounts of other platforms."""

from collections import Counter

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.inventory import Inventory
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import Role
from batchlic.reader.validation.validator import ValidatedBlock

MIN_WRONG = 3
"""Fewer wrong check digits are mistyped numbers. Of numbers without check digits, one in ten seems right."""


class Facts:
    """Counts over the blocks of one inventory."""

    def __init__(self) -> None:
        self._right: Counter[tuple[Role, int]] = Counter()
        self._wrong: Counter[tuple[Role, int]] = Counter()
        self._foreign_accounts = 0
        self._foreign_account = ""
        self._shifted = 0

    def add(self, block: ValidatedBlock) -> None:
        """Count the rows of one more block."""
        self._right.update(right_check_digits(block.valid))
        self._wrong.update(block.wrong_check_digits)
        self._shifted += block.shifted
        if len(block.foreign_accounts):
            self._foreign_account = self._foreign_account or block.foreign_accounts[0]
            self._foreign_accounts += len(block.foreign_accounts)

    def refuse_cut_columns(self, inventory: Inventory) -> None:
        """Raise InventoryError if most check digits of a column are wrong among numbers of one length."""
        for (role, digits), wrong in sorted(self._wrong.items()):
            total = wrong + self._right[role, digits]
            if wrong < MIN_WRONG or 2 * wrong <= total:
                continue
            header = inventory.headers.get(role)
            column = f"the column {header!r}" if header else f"the {role} column"
            share = f"{wrong / total:.0%} of its check digits fail"
            raise InventoryError(
                f"{inventory.name}: {column} looks cut: {share} ({wrong:,} of {total:,} numbers with "
                f"{digits} digits). Export the whole numbers, leave the column out "
                f"with --column {role}=-, or take the numbers as they are with --no-check-digit"
            )

    def notes(self, name: str, options: ReadOptions) -> list[str]:
        """Notes for the operator about the rows of the inventory called `name`."""
        notes = []
        if self._foreign_accounts:
            shown = f"{_rows(self._foreign_accounts)} with another account, such as"
            shown = f"{shown} {self._foreign_account[:60]!r}, which is none of the carrier's"
            notes.append(f"{name}: {shown}: planned under {options.account}")
        if self._shifted:
            notes.append(
                f"{name}: {_rows(self._shifted)} with more cells than the header: their kept columns are "
                "null, because the cells may be shifted"
            )
        return notes


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def right_check_digits(valid: pl.DataFrame) -> dict[tuple[Role, int], int]:
    """The number of identifiers in valid rows by role and number of digits."""
    iccid = valid["iccid_number"]
    negative, has_19 = len(iccid.filter(iccid < 0)), len(iccid.filter(iccid >= 10**18))
    return {
        (Role.IMEI, 15): valid["imei_number"].count(),
        (Role.ICCID, 20): negative,
        (Role.ICCID, 19): has_19,
        (Role.ICCID, 18): iccid.count() - negative - has_19,
    }

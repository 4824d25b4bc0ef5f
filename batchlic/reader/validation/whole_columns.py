"""What the rows of an inventory show as a whole: columns of cut numbers, and accounts of other platforms."""

from collections import Counter

import polars as pl

from batchlic.aliases import shown
from batchlic.errors import InventoryError
from batchlic.reader.columns.contents import accounts_in_name
from batchlic.reader.columns.layout import LINES_ABOVE
from batchlic.reader.columns.matching import ignores_accounts
from batchlic.reader.inventory import Inventory
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import Role
from batchlic.reader.validation.validator import ROW, ValidatedBlock

MIN_WRONG = 3
"""Fewer wrong check digits are mistyped numbers. Of numbers without check digits, one in ten seems right."""

SHEETS_END_AT = (65_536, 1_048_576)
"""Rows of a sheet in spreadsheet programs, the header included. They cut off longer lists."""

_GIVE_ACCOUNT = "give the account with --account, or ignore it with --column account=-"


class Facts:
    """Counts over the blocks of one inventory."""

    def __init__(self, options: ReadOptions) -> None:
        self._account = options.account
        self._rows = 0
        self._ignores_accounts = ignores_accounts(options)
        self._right: Counter[tuple[Role, int]] = Counter()
        self._wrong: Counter[tuple[Role, int]] = Counter()
        self._foreign_accounts = 0
        self._foreign_account = ""
        self._rows_without_account = 0
        self._names_other_account = False
        self._ends_without_account = False
        self._shifted = 0

    def add(self, block: ValidatedBlock) -> None:
        """Count the rows of one more block."""
        self._rows += block.height
        self._right.update(right_check_digits(block.valid))
        self._wrong.update(block.wrong_check_digits)
        self._shifted += block.shifted
        accounts = block.valid["account"]
        self._rows_without_account += accounts.null_count() - len(block.foreign_accounts)
        self._names_other_account = self._names_other_account or bool(
            (accounts != (self._account or "")).any()
        )
        if block.height:
            last = block.valid.tail(1).filter(pl.col(ROW) == block.height - 1)
            self._ends_without_account = last["account"].null_count() == 1
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

    def refuse_cut_account(self, inventory: Inventory) -> None:
        """Raise InventoryError if a text has an account in all rows but the last, and no newline at its end.

        The last row would be planned under the job's account, while other rows name another one.
        """
        is_only_one = self._rows_without_account + self._foreign_accounts == 1
        may_be_cut = self._ends_without_account and not inventory.ending.has_newline
        if self._names_other_account and is_only_one and may_be_cut:
            raise InventoryError(
                f"{shown(inventory.name)}: the file seems to be cut off: only its last row has no whole "
                "account, and no newline follows. Export the file again. If it is whole, fill the account or "
                "end the file with a newline"
            )

    def refuse_other_places(self, inventory: Inventory) -> None:
        """Raise InventoryError if rows get the job's account, and the name of a place has another one."""
        rows = self._rows_without_account + self._foreign_accounts
        if self._ignores_accounts or not rows:
            return
        for place in inventory.places:
            accounts = accounts_in_name(place)
            if accounts and self._account not in accounts:
                has_column = Role.ACCOUNT in inventory.roles
                raise InventoryError(
                    f"{shown(inventory.name)}: the name {place!r} contains the account {accounts[0]}, but "
                    f"{_rows(rows)} without an account would be planned under {self._account}: "
                    + ("fill the account column in each row, or rename it" if has_column else _GIVE_ACCOUNT)
                )

    def notes(self, name: str) -> list[str]:
        """Notes for the operator about the rows of the inventory called `name`."""
        notes = [
            f"{name}: {self._rows:,} rows, as many as fit into a sheet ({limit:,} with the header). If a "
            "spreadsheet program wrote them, compare their number with the source: it cuts off all others"
            for limit in SHEETS_END_AT
            if limit - LINES_ABOVE <= self._rows <= limit
        ]
        if self._foreign_accounts:
            rows = f"{_rows(self._foreign_accounts)} with another account, such as"
            rows = f"{rows} {self._foreign_account[:60]!r}, which is none of the carrier's"
            notes.append(f"{name}: {rows}: planned under {self._account}")
        if self._rows_without_account and self._names_other_account:
            rows = _rows(self._rows_without_account)
            where = f"planned under {self._account}; other rows name a different account"
            notes.append(f"{name}: {rows} without an account, {where}")
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

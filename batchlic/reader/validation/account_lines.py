"""Refuses inventories with lines between devices that name another account of the carrier.

Such a line may be a heading for the rows below it, as in a report with a block of rows for each account.
"""

import polars as pl

from batchlic.aliases import shown
from batchlic.errors import InventoryError
from batchlic.reader.columns.contents import account_in_words
from batchlic.reader.columns.matching import ignores_accounts
from batchlic.reader.inventory import WHOLE, Inventory, is_too_short
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role
from batchlic.reader.validation.validator import ROW, ValidatedBlock


class AccountLines:
    """The lines of one inventory that name another account than the job's.

    A line matters only if a device follows. If the inventory has a column of accounts, this device has none.
    """

    def __init__(self, inventory: Inventory, options: ReadOptions) -> None:
        self._name = shown(inventory.name)
        self._account = options.account or ""
        self._is_ignored = ignores_accounts(options)
        self._has_column = Role.ACCOUNT in inventory.roles
        self._last: tuple[int, str] | None = None
        """The number and the account of a line that is followed by no device yet."""

    def refuse(self, block: ValidatedBlock, *, rows_before: int) -> None:
        """Raise InventoryError if a line in the next block of rows, or the last one before it, matters."""
        if self._is_ignored or not (block.rejects.height or self._last):
            return
        if self._last and block.valid.height:
            if not self._has_column or block.valid["account"][0] is None:
                raise self._error(*self._last)
            self._last = None
        for row, account, has_default in self._lines(block).iter_rows():
            if has_default is None:
                self._last = rows_before + row + 1, account
            elif has_default or not self._has_column:
                raise self._error(rows_before + row + 1, account)

    def _lines(self, block: ValidatedBlock) -> pl.DataFrame:
        """The lines: ROW, `account`, and `has_default`: whether the next device has no account of its own."""
        cells = [pl.col(role) for role in IDENTIFIERS]
        is_no_device = pl.all_horizontal(
            is_too_short(cell) | account_in_words(cell).is_not_null() for cell in cells
        )
        text = pl.coalesce(WHOLE, pl.concat_str(cells, separator="\n", ignore_nulls=True))
        is_alone = pl.col(Role.ACCOUNT).is_null() | (text.str.strip_chars() == pl.col(Role.ACCOUNT))
        devices = block.valid.select(ROW, pl.col("account").is_null().alias("has_default"))
        return (
            block.rejects.join(block.whole, on=ROW, how="left", maintain_order="left")
            .filter(is_no_device & is_alone)
            .select(ROW, account_in_words(text).alias("account"))
            .filter(pl.col("account") != self._account)
            .join_asof(devices, on=ROW, strategy="forward")
        )

    def _error(self, row: int, account: str) -> InventoryError:
        ignored = "" if self._has_column else ", or ignore the line with --column account=-"
        return InventoryError(
            f"{self._name}: row {row} names the account {account}, and the rows below it have none: fill an "
            f"account column in each row{ignored}"
        )

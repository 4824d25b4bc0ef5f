"""The columns of an inventory that batchlic reads."""

from enum import StrEnum


class Role(StrEnum):
    """The content of a column of an inventory. Other columns are not read, unless a job keeps them."""

    IMEI = "imei"
    ICCID = "iccid"
    ACCOUNT = "account"
    SKU = "sku"


IDENTIFIERS = (Role.IMEI, Role.ICCID)
TARGETS = (Role.ACCOUNT, Role.SKU)


def kept_cell(name: str) -> str:
    """The column of a block that has the cells of a kept column."""
    return f"kept {name}"


LEFT_OUT = "-"
"""As the column of a role: no column is read for it."""

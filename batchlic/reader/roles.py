"""The columns of an inventory that batchlic reads."""

from enum import StrEnum


class Role(StrEnum):
    """The content of a column of an inventory. Other columns are not read."""

    IMEI = "imei"
    ICCID = "iccid"
    ACCOUNT = "account"
    SKU = "sku"


IDENTIFIERS = (Role.IMEI, Role.ICCID)
TARGETS = (Role.ACCOUNT, Role.SKU)

LEFT_OUT = "-"
"""As the column of a role: no column is read for it."""

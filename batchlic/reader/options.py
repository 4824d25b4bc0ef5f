"""How an inventory is to be read: which identifiers count, what stands in for absent columns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from batchlic.carrier.catalog import SKUS, Action, LicenseType
from batchlic.errors import UsageError


class IdKind(StrEnum):
    """Which identifiers of a device are sent."""

    AUTO = "auto"
    """Whatever the row has, IMEI first."""
    IMEI = "imei"
    ICCID = "iccid"
    BOTH = "both"

    @property
    def required(self) -> tuple["Role", ...]:
        """The identifiers that a row must have; empty where any one will do."""
        return {
            IdKind.AUTO: (),
            IdKind.IMEI: (Role.IMEI,),
            IdKind.ICCID: (Role.ICCID,),
            IdKind.BOTH: (Role.IMEI, Role.ICCID),
        }[self]


class Role(StrEnum):
    """What a column of an inventory is for; all other columns are left unread."""

    IMEI = "imei"
    ICCID = "iccid"
    ACCOUNT = "account"
    SKU = "sku"


IDENTIFIERS = (Role.IMEI, Role.ICCID)

ACCOUNT_FORM = "[0-9A-Za-z._-]{3,32}"
"""The carrier says 3 to 32 characters; those seen are digits and dashes, and leading zeros count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the job says about its inventories.

    `account` and `sku` stand in where a row has none; a cell wins over them. `columns` names a column per
    role, by header or 1-based position, where the aliases do not find it. `sheet` picks a sheet of a
    workbook (default: the first). `accept_imeisv` turns 16-digit IMEISVs into IMEIs; `check_digit=False`
    takes identifiers whose check digit is wrong. `other_skus` are the contract's own, beside the catalogue.
    `only_sku` is the one SKU that rows may name, where there is one.
    """

    action: Action = Action.ASSIGN
    account: str | None = None
    sku: str | None = None
    only_sku: str | None = None
    id_kind: IdKind = IdKind.AUTO
    columns: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    accept_imeisv: bool = False
    check_digit: bool = True
    other_skus: Mapping[str, LicenseType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, what would reject every row."""
        if self.account is not None and not re.fullmatch(ACCOUNT_FORM, self.account):
            raise UsageError(f"account {self.account!r} is not 3 to 32 letters, digits and dashes")
        if self.sku is not None and self.sku not in self.skus:
            raise UsageError(f"SKU {self.sku!r} is not known; known are {', '.join(self.skus)}")
        if unknown := set(self.columns) - set(Role):
            raise UsageError(f"there is no column role {min(unknown)!r}; the roles are {', '.join(Role)}")

    @property
    def skus(self) -> dict[str, LicenseType]:
        """All SKUs that may be named: the catalogue's and the contract's own."""
        return {**SKUS, **self.other_skus}

    def default(self, role: Role) -> str | None:
        """What stands in where a row has no cell for `role`."""
        return {Role.ACCOUNT: self.account, Role.SKU: self.sku}.get(role)


@dataclass(frozen=True, slots=True)
class Source:
    """One input: its name as the command line or the job gives it, and how many data rows it has."""

    name: str
    rows: int

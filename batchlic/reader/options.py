"""How to read inventories: the identifiers that rows must have, and defaults for absent columns."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from batchlic.carrier.catalog import SKUS, Action, LicenseType
from batchlic.errors import UsageError
from batchlic.reader.columns import profiles
from batchlic.reader.roles import Role


class IdKind(StrEnum):
    """Which identifiers of a device are sent."""

    AUTO = "auto"
    """The IMEI, or the ICCID of a row without IMEI."""
    IMEI = "imei"
    ICCID = "iccid"
    BOTH = "both"

    @property
    def required(self) -> tuple[Role, ...]:
        """The identifiers that a row must have; empty if one of them is enough."""
        return {
            IdKind.AUTO: (),
            IdKind.IMEI: (Role.IMEI,),
            IdKind.ICCID: (Role.ICCID,),
            IdKind.BOTH: (Role.IMEI, Role.ICCID),
        }[self]


def kept_columns(given: Iterable[str]) -> dict[str, str]:
    """The columns to keep: the header of each by its name in the results.

    An entry is a header, or NAME=HEADER to give the column another name. Raises ValueError for a name that
    can't be above a column of a spreadsheet, or that is there twice.
    """
    columns: dict[str, str] = {}
    for entry in given:
        name, is_renamed, header = (part.strip() for part in entry.partition("="))
        header = header if is_renamed else name
        if not name or not header:
            raise ValueError(f"{entry!r} is no column: give a header, or NAME=HEADER")
        if not name.isprintable() or name[0] in "+-@\uff1d\uff0b\uff0d\uff20" or len(name) > MAX_NAME:
            raise ValueError(
                f"{name[:MAX_NAME]!r} can't be the name of a column in a spreadsheet: give another one, such "
                f"as column={header[:MAX_NAME]}"
            )
        if name.casefold() in map(str.casefold, columns):
            raise ValueError(
                f"two columns would be called {name!r}: give one of them another name, NAME=HEADER"
            )
        columns[name] = header
    return columns


MAX_NAME = 100
"""Characters in the name of a kept column."""

ACCOUNT_FORM = "[0-9A-Za-z._-]{3,32}"
"""The carrier allows 3 to 32 characters. All known accounts are digits and dashes; leading zeros count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How the inventories of a job are read.

    `account` and `sku` are the defaults for rows without these cells. `only_sku`, if set, is the only SKU
    that rows may name. `id_kind` decides which identifiers a row must have. `columns` names the column of a
    role, by header, path into nested objects (`device.imei`) or 1-based position, if the known spellings do
    not find it; LEFT_OUT reads none. `profile` is the name of a known export that all files are. `sheet` is
    the sheet of a workbook (default: the first visible one). `accept_imeisv` converts 16-digit IMEISVs to
    IMEIs. `check_digit=False` accepts identifiers with a wrong check digit. `other_skus` are SKUs of the
    contract that the catalog does not have. `allow_empty` accepts inventories without rows.
    `download_timeout`: seconds to wait for an answer of a server, or for more of a file. `query` is the SQL
    text that reads the inventories that are databases. `keep`: the columns whose cells are kept as text, by
    their names in the results: a header, path or position for each.
    """

    action: Action = Action.ASSIGN
    account: str | None = None
    sku: str | None = None
    only_sku: str | None = None
    id_kind: IdKind = IdKind.AUTO
    columns: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None
    sheet: str | None = None
    accept_imeisv: bool = False
    check_digit: bool = True
    allow_empty: bool = False
    download_timeout: float = 60.0
    query: str | None = None
    other_skus: Mapping[str, LicenseType] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError for options that would reject every row."""
        if self.account is not None and not re.fullmatch(ACCOUNT_FORM, self.account):
            raise UsageError(f"account {self.account!r} is not 3 to 32 letters, digits and dashes")
        if self.sku is not None and self.sku not in self.skus:
            raise UsageError(f"SKU {self.sku!r} is not known; known are {', '.join(self.skus)}")
        if unknown := set(self.columns) - set(Role):
            raise UsageError(f"there is no column role {min(unknown)!r}; the roles are {', '.join(Role)}")
        if self.profile is not None:
            profiles.named(self.profile)

    @property
    def skus(self) -> dict[str, LicenseType]:
        """All known SKUs: those of the catalog and `other_skus`."""
        return {**SKUS, **self.other_skus}

    def default(self, role: Role) -> str | None:
        """The value for rows without a cell for `role`."""
        return {Role.ACCOUNT: self.account, Role.SKU: self.sku}.get(role)


@dataclass(frozen=True, slots=True)
class Source:
    """One input: its name as the command line or the job gives it, and its number of data rows."""

    name: str
    rows: int

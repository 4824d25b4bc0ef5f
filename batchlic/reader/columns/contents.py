"""Tells what a column holds by the form of its cells."""

import re
from collections.abc import Sequence

from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role

_IDENTIFIER_FORMS: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(r"\d{15}(\d)?"),
    Role.ICCID: re.compile(r"89\d{16,18}F?", re.IGNORECASE),
}
_ACCOUNT_FORM = re.compile(r"(?<![\d-])\d{10}-\d{5}(?![\d-])")
"""An account of the carrier in a text, and not a part of a longer number."""
ACCOUNT_IN_WORDS = r"(?:^|[^\d-])(\d{10}-\d{5})(?:[^\d-]|$)"
"""The same for polars, which has no look-around."""
_DECORATION = re.compile(r"[\s\-.='\"\0\ufeff]")


IDENTIFIER_OR_ACCOUNT = r"^\s*(?:(?:01|35|86|99)\d{13,14}|89\d{16,18}[Ff]?|\d{10}-\d{5})\s*$"
"""What a cell without a header must not hold, since it is not read. IMSIs have as many digits as IMEIs, but
begin with other ones."""


def is_identifier_or_account(cell: str) -> bool:
    """Whether a cell without a header holds an identifier or an account."""
    return re.search(IDENTIFIER_OR_ACCOUNT, cell) is not None


def columns_of(sample: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The cells of each column in the rows of a sample, without empty ones."""
    return [[cell for row in sample if at < len(row) and (cell := row[at].strip())] for at in range(width)]


def accounts_in(text: str) -> list[str]:
    """The accounts of the carrier in a text."""
    return _ACCOUNT_FORM.findall(text)


def without_accounts(text: str) -> str:
    """A text without the accounts of the carrier in it."""
    return _ACCOUNT_FORM.sub("", text)


def is_account(cell: str) -> bool:
    """Whether a cell has the form of the carrier's accounts."""
    return _ACCOUNT_FORM.fullmatch(cell) is not None


def are_accounts(cells: Sequence[str]) -> bool:
    """Whether most cells of a column are accounts of the carrier."""
    return 2 * sum(map(is_account, cells)) > len(cells)


def are_identifiers(role: Role, cells: Sequence[str]) -> bool:
    """Whether most cells of a column are identifiers with a right check digit, unlike those of IMSIs."""
    return 2 * sum(looks_like(role, cell) and _has_check_digit(cell) for cell in cells) > len(cells)


def _has_check_digit(cell: str) -> bool:
    digits = [int(digit) for digit in reversed(_DECORATION.sub("", cell).rstrip("Ff"))]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def holds_identifier(record: Sequence[str]) -> bool:
    """Whether a record holds an IMEI or ICCID, so that it is a device and not a header."""
    return any(looks_like(role, cell) for cell in record for role in IDENTIFIERS)


def mostly_look_like(role: Role, cells: Sequence[str], options: ReadOptions | None = None) -> bool:
    """Whether more than half of the cells that are not empty look like a role."""
    return 2 * sum(looks_like(role, cell, options) for cell in cells) > sum(map(bool, cells))


def looks_like(role: Role, cell: str, options: ReadOptions | None = None) -> bool:
    """Whether a cell has the form of a role; `options` have the known SKUs."""
    if role is Role.SKU:
        return options is not None and cell in options.skus
    if role is Role.ACCOUNT or is_account(cell):
        return role is Role.ACCOUNT and is_account(cell)
    return _IDENTIFIER_FORMS[role].fullmatch(_DECORATION.sub("", cell)) is not None

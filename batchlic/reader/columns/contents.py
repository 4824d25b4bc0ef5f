"""Tells what a column holds by the form of its cells."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import polars as pl

from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role

_IDENTIFIER_FORMS: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(r"\d{15}(\d)?"),
    Role.ICCID: re.compile(r"89\d{16,18}F?", re.IGNORECASE),
}
_ACCOUNT_LENGTH = 16
"""Characters of an account of the carrier."""
_DASHES = r"\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_DASH = rf"\s?[{_DASHES}]\s?"
_ACCOUNT = rf"\d{{10}}{_DASH}\d{{5}}"
_ACCOUNT_FORM = re.compile(rf"(?<![\d-]){_ACCOUNT}(?![\d-])")
"""An account of the carrier in a text, and not a part of a longer number."""
_LABEL = r"(?i:\b(?:account|acct)(?:[\s.:=#_-]|name|number|no|nr|id){0,8})"
"""A word that names an account, right before it."""
_ACCOUNT_IN_NAME = re.compile(rf"(?:^(?!1)|{_LABEL}|(?<![0-9A-Za-z])(?=0))({_ACCOUNT})(?![0-9A-Za-z])")
"""The same in the name of a file, whose words dashes may join. Times and order numbers have this form, too.
So an account begins with a zero, or the name with it (but not with a 1, as times do), or a word names it."""
_SHORT = rf"{_LABEL}(\d{{5,9}}[{_DASHES}]\d{{5}})"
_SHORT_ACCOUNT = re.compile(rf"{_SHORT}(?![\d-])")
"""An account that lost leading zeros. A word must name it: other numbers have this form, too."""
_ACCOUNT_IN_WORDS = rf"(?:^|[^\d-])({_ACCOUNT})(?:[^\d-]|$)"
"""_ACCOUNT_FORM for polars, which has no look-around."""
_SHORT_ACCOUNT_IN_WORDS = rf"{_SHORT}(?:[^\d-]|$)"
_DECORATION = re.compile(r"[\s\-.='\"\0\ufeff]")
_AROUND = r"[\s='\"\x00\u00ad\u2018\u2019\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
"""What people and spreadsheets put around an identifier or an account."""
_IMEI = r"(?:01|35|86|99)(?:\d{13,14}|-\d{6}-\d{6}-\d{1,2})"
_ICCID = r"89(?:\d{16,18}[Ff]?|\d\d(?: \d{4}){3,4}(?: \d{1,3})?)"
IDENTIFIER_OR_ACCOUNT = rf"^{_AROUND}(?:(?:{_IMEI}|{_ICCID})(?:[.,]0+)?|{_ACCOUNT}){_AROUND}$"
"""What a cell without a header must not hold, since it is not read. IMSIs have as many digits as IMEIs, but
begin with other ones."""
_ACCOUNT_ALONE = re.compile(rf"{_AROUND}({_ACCOUNT}){_AROUND}")


def is_identifier_or_account(cell: str) -> bool:
    """Whether a cell without a header holds an identifier or an account."""
    return re.search(IDENTIFIER_OR_ACCOUNT, cell) is not None


def columns_of(sample: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The cells of each column in the rows of a sample, without empty ones."""
    return [[cell for row in sample if at < len(row) and (cell := row[at].strip())] for at in range(width)]


def accounts_in(text: str) -> list[str]:
    """The accounts of the carrier in a text, as the carrier writes them."""
    return [_plain(found) for found in (*_ACCOUNT_FORM.findall(text), *_SHORT_ACCOUNT.findall(text))]


def accounts_in_name(name: str) -> list[str]:
    """The accounts of the carrier in the name of a file, folder or sheet."""
    return list(map(_plain, _ACCOUNT_IN_NAME.findall(name)))


def account_in_words(cell: pl.Expr) -> pl.Expr:
    """The first account of the carrier in a text, as the carrier writes it; null if there is none."""
    found = pl.coalesce(cell.str.extract(_ACCOUNT_IN_WORDS), cell.str.extract(_SHORT_ACCOUNT_IN_WORDS))
    plain = found.str.normalize("NFKC").str.replace_all(_DASH, "-")
    return plain.str.zfill(_ACCOUNT_LENGTH)


def _plain(account: str) -> str:
    """An account with ASCII digits, a plain dash, and leading zeros."""
    halves = re.split(_DASH, unicodedata.normalize("NFKC", account))
    return "-".join(halves).zfill(_ACCOUNT_LENGTH)


def without_accounts(text: str) -> str:
    """A text without the accounts of the carrier in it."""
    return _ACCOUNT_FORM.sub("", text)


def account_alone(cell: str) -> str | None:
    """The account of the carrier that is all of a cell, as the carrier writes it; otherwise None."""
    found = _ACCOUNT_ALONE.fullmatch(cell)
    return _plain(found[1]) if found else None


def is_account(cell: str) -> bool:
    """Whether a cell has the form of the carrier's accounts."""
    return _ACCOUNT_ALONE.fullmatch(cell) is not None


def has_account(cells: Sequence[str]) -> bool:
    """Whether a cell of a column is an account of the carrier."""
    return any(map(is_account, cells))


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


def are_of_both_kinds(cells: Sequence[str]) -> bool:
    """Whether most cells are identifiers, some of them IMEIs and some ICCIDs."""
    kinds = Counter(next((role for role in IDENTIFIERS if looks_like(role, cell)), None) for cell in cells)
    return all(kinds[role] for role in IDENTIFIERS) and 2 * kinds[None] < len(cells)


def looks_like(role: Role, cell: str, options: ReadOptions | None = None) -> bool:
    """Whether a cell has the form of a role; `options` have the known SKUs."""
    if role is Role.SKU:
        return options is not None and cell in options.skus
    if role is Role.ACCOUNT or is_account(cell):
        return role is Role.ACCOUNT and is_account(cell)
    return _IDENTIFIER_FORMS[role].fullmatch(_DECORATION.sub("", cell)) is not None

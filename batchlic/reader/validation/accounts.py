"""Tells accounts of the carrier from what other platforms call an account.

All known accounts are 10 digits, a dash and 5 digits. If the job's account has this form, a cell in another
form is damaged, and its row is rejected; or it is about something else, and the job's account counts.
"""

import re

import polars as pl

from batchlic.reader.options import ACCOUNT_FORM, ReadOptions

FORM = "^[0-9]{10}-[0-9]{5}$"
_DAMAGED = (
    r"^[0-9]+ *[-\u2010-\u2015\u2212_./ ] *[0-9]+$"  # lost zeros, or another dash
    r"|^[0-9]{6,} *[-\u2010-\u2015\u2212]$"  # lost the end
    r"|[0-9]{6,}-[0-9]{3,}"  # in a longer text
    r"|(^|\D)\d{8,10}[\W_]{1,3}\d{4,5}(\D|$)"  # with other signs between, or digits of other scripts
    r"|^(\d *){9,10}[\W_]{1,3}(\d *){4,5}$"  # a space among the digits
    r"|^[0-9Oo]{10}-[0-9Oo]{5}$"  # letters O for zeros
    r"|^([0-9]{11}|[0-9]{7,9}000[0-9]{2}|[0-9]{15})$"  # lost its dash, and up to four zeros
    r"|^[0-9]([.,][0-9]*)?[eE]\+?[0-9]+$"
    r"|^#"  # an error of a spreadsheet
)


def is_proper(account: pl.Expr, options: ReadOptions) -> pl.Expr:
    """Whether a raw cell is certainly an account (Boolean)."""
    return account.str.contains(FORM if _is_known_form(options) else "^[0-9-]{3,32}$")


def is_foreign(account: pl.Expr, options: ReadOptions) -> pl.Expr:
    """Whether a cell, as text, is about something else, so that the job's account counts (Boolean)."""
    if options.account is None:
        return pl.lit(value=False)
    form = FORM if _is_known_form(options) else f"^{ACCOUNT_FORM}$"
    return (~account.str.contains(f"{form}|{_DAMAGED}")).fill_null(value=False)


def is_damaged(account: pl.Expr, options: ReadOptions) -> pl.Expr:
    """Whether an account is one of the carrier that was damaged (Boolean)."""
    if not _is_known_form(options):
        return pl.lit(value=False)
    return ~account.str.contains(FORM) & account.str.contains(_DAMAGED)


def _is_known_form(options: ReadOptions) -> bool:
    return options.account is not None and re.search(FORM, options.account) is not None

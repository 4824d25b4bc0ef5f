"""Why rows are not planned, and what to do about it: for reports and docs/reference/inventories.md."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a row is not planned; the public codes of rejects.parquet and summary.json."""

    SHORT_ROW = "short_row"
    LONG_ROW = "long_row"
    MISSING_IDENTIFIER = "missing_identifier"
    BAD_LENGTH = "bad_length"
    NOT_DIGITS = "not_digits"
    BAD_CHECK_DIGIT = "bad_check_digit"
    MANGLED_NUMBER = "mangled_number"
    IMEISV = "imeisv"
    PLACEHOLDER = "placeholder"
    MEID = "meid"
    EID = "eid"
    SWAPPED_DIGITS = "swapped_digits"
    HEX_NUMBER = "hex_number"
    NO_VALUE = "no_value"
    BAD_ICCID_PREFIX = "bad_iccid_prefix"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    MISSING_ACCOUNT = "missing_account"
    BAD_ACCOUNT = "bad_account"
    MISSING_SKU = "missing_sku"
    UNKNOWN_SKU = "unknown_sku"
    OTHER_SKU = "other_sku"
    IRREVOCABLE = "irrevocable"
    NO_LICENSE = "no_license"


class Explanation(NamedTuple):
    """When rows are rejected for these reasons, and what to do. Backticks enclose code."""

    reasons: tuple[Reason, ...]
    when: str
    advice: str


EXPLANATIONS = (
    Explanation(
        (Reason.SHORT_ROW,),
        "the row ends before its identifiers",
        "restore the cells, or join a row that a line break cut",
    ),
    Explanation(
        (Reason.LONG_ROW,),
        "the row has more cells than the header, and account or SKU are read from the file: they may be "
        "shifted; or a cell beyond the header is an identifier or an account",
        "quote the cell that contains the separator, or remove the extra cells",
    ),
    Explanation(
        (Reason.MANGLED_NUMBER,),
        "`8.64508E+14`: a spreadsheet or float lost digits",
        "export again with the column as text",
    ),
    Explanation(
        (Reason.PLACEHOLDER,), "zeros in place of an IMEI or ICCID", "give the number, or empty the cell"
    ),
    Explanation(
        (Reason.NO_VALUE,),
        "a formula whose value the workbook does not have",
        "open the workbook in a spreadsheet program, and save it",
    ),
    Explanation(
        (Reason.MEID, Reason.EID),
        "the cell looks like a MEID (14 hexadecimal digits) or an EID (32 digits)",
        "give the IMEI or ICCID",
    ),
    Explanation(
        (Reason.SWAPPED_DIGITS, Reason.HEX_NUMBER),
        "an ICCID with its digits swapped in pairs (`98…`), or in hexadecimal",
        "convert the column",
    ),
    Explanation((Reason.NOT_DIGITS,), "the cell has characters that are not digits", "correct the cell"),
    Explanation((Reason.IMEISV,), "an IMEI of 16 digits", "give 15 digits, or use `--accept-imeisv`"),
    Explanation(
        (Reason.BAD_LENGTH,),
        "not 15 digits of IMEI, or 18 to 20 of ICCID",
        "look for a lost leading zero or check digit",
    ),
    Explanation(
        (Reason.BAD_ICCID_PREFIX,),
        "an ICCID that does not start with 89",
        "find the SIM's ICCID: this is a different number",
    ),
    Explanation(
        (Reason.BAD_CHECK_DIGIT,),
        "the last digit does not match the others (Luhn)",
        "correct the mistyped digit; `--no-check-digit` turns this rule off",
    ),
    Explanation(
        (Reason.MISSING_IDENTIFIER,),
        "the row has no identifier, or not the one that `--id-kind` sends",
        "fill the cell",
    ),
    Explanation(
        (Reason.MISSING_ACCOUNT, Reason.BAD_ACCOUNT),
        "no account in the row or the job; an account that is damaged, or not 3 to 32 letters, digits and "
        "dashes",
        "fill the cell, or `--account`",
    ),
    Explanation(
        (Reason.MISSING_SKU, Reason.UNKNOWN_SKU),
        "no SKU in the row or the job; a SKU that is neither known to batchlic nor in the job's `other_skus`",
        "fill the cell, or `--sku`",
    ),
    Explanation(
        (Reason.OTHER_SKU,),
        "in a migration, the row names another SKU than `from_sku`",
        "remove the row, or correct the cell",
    ),
    Explanation(
        (Reason.IRREVOCABLE,),
        "unassigning a Lifetime license, or moving a device away from one",
        "remove the row: the license can't be taken back",
    ),
    Explanation(
        (Reason.NO_LICENSE,),
        "`--allow-partial`, and no license was left for the device",
        "buy more licenses, and run the inventory again",
    ),
    Explanation(
        (Reason.DUPLICATE,),
        "the same device as an earlier row, which the message names",
        "nothing: the first is planned",
    ),
    Explanation(
        (Reason.CONFLICT,),
        "one IMEI with two ICCIDs or the reverse, or one device under two accounts or SKUs",
        "the message names the other row; correct or remove one of them",
    ),
)
"""In the order in which a row's reason is chosen."""


def explanation_of(reason: str) -> Explanation | None:
    """The explanation of a reason; None for one that this version does not know."""
    return next((found for found in EXPLANATIONS if reason in found.reasons), None)

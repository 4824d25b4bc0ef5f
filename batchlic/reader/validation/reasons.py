"""Why rows are not planned."""

from enum import StrEnum


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

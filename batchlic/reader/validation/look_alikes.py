"""Names other numbers that people take for an IMEI or an ICCID, so that a reject says what its cell is."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from batchlic.reader.inventory import NO_VALUE
from batchlic.reader.roles import Role
from batchlic.reader.validation.reasons import Reason


class LookAlike(NamedTuple):
    """A number of another kind, by the pattern and the length (if any) of a cell without separators.

    `explanation` ends a message.
    """

    reason: Reason
    pattern: str
    explanation: str
    lengths: Sequence[int] = ()

    def fits(self, digits: pl.Expr) -> pl.Expr:
        """Whether a cell without separators is such a number (Boolean)."""
        fits = digits.str.contains(self.pattern)
        return fits & digits.str.len_bytes().is_in(self.lengths) if self.lengths else fits


_PHONE = "it looks like a phone number: give the ICCID, or --column iccid=- if the column has no ICCIDs"
_HEXADECIMAL = "^[0-9]*[A-Fa-f][0-9A-Fa-f]*$"
_COMMON = (
    LookAlike(
        Reason.NO_VALUE,
        f"^{NO_VALUE}",
        "it is a formula whose value is not in the workbook; open the workbook in a spreadsheet program, and "
        "save it",
    ),
    LookAlike(
        Reason.PLACEHOLDER,
        "^0{14,20}$",
        "it is a placeholder of zeros; give the number, or leave the cell empty",
    ),
    LookAlike(
        Reason.EID,
        "^[0-9]{32}$",
        "it has 32 digits, as the EID of an eSIM; give the IMEI of the device, or the ICCID of its profile",
    ),
)
_OF_ROLES = {
    Role.IMEI: (
        LookAlike(
            Reason.MEID,
            _HEXADECIMAL,
            "it has 14 hexadecimal digits, as the MEID of a CDMA device; give the IMEI",
            lengths=[14],
        ),
        LookAlike(
            Reason.BAD_LENGTH,
            "^89[0-9]{16,18}$",
            "it looks like an ICCID; give the IMEI, or name the ICCID's column with --column iccid=HEADER",
        ),
    ),
    Role.ICCID: (
        LookAlike(
            Reason.SWAPPED_DIGITS,
            "^98[0-9A-Fa-f]{16,18}$",
            "it starts with 98, as an ICCID with each pair of digits swapped, which is how a SIM stores it; "
            "swap them back",
        ),
        LookAlike(
            Reason.HEX_NUMBER,
            _HEXADECIMAL,
            "it is a hexadecimal number; give the ICCID in decimal digits",
            lengths=[15, 16, 17],
        ),
        LookAlike(
            Reason.HEX_NUMBER,
            "^(0[xX][0-9A-Fa-f]+|(3[0-9]){18,20})$",
            "it is a hexadecimal number; give the ICCID in decimal digits",
        ),
        LookAlike(
            Reason.BAD_LENGTH,
            "^[0-9]{15}$",
            "it has 15 digits, as an IMEI or IMSI; give the ICCID, or name the IMEI's column with "
            "--column imei=HEADER",
        ),
        LookAlike(Reason.BAD_LENGTH, "^[0-9]{7,13}$", _PHONE),
        LookAlike(Reason.NOT_DIGITS, r"^\+[0-9]{7,15}$", _PHONE),
    ),
}


def of(role: Role) -> Sequence[LookAlike]:
    """The numbers that are found under a role."""
    return (*_COMMON, *_OF_ROLES[role])

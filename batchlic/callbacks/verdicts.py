"""What a message reports of the devices that it names.

A fault (a `faultResponse` that names an error) is a failure, whatever the status. There is one exception:
beside the status Success, a fault without a code of the carrier settles nothing, because one of the two is
wrong.

Without a fault, only the statuses Success and Failed decide anything. The carrier documents no other status,
so any other one settles nothing, and is shown as it came.
"""

import re

import polars as pl

from batchlic.carrier.answers import Blame
from batchlic.carrier.messages import strip_service_name
from batchlic.carrier.named_errors import names_error
from batchlic.carrier.rules import CODES

SUCCESS, FAILURE = "success", "failure"
"""The verdicts that decide. Any other verdict is a text to show."""

ON_HOLD, CANCELED = "on hold", "canceled"

WHOLE_REQUEST_CODES = frozenset(
    code for rule in CODES if rule.conclusion.blame is Blame.ACCOUNT for code in rule.codes
)
"""Codes that blame what all devices of a request share, such as its account."""

_DECIDING = {"success": SUCCESS, "failed": FAILURE}
_BY_LETTERS = {"onhold": ON_HOLD, "canceled": CANCELED, "cancelled": CANCELED}
_BY_CLASS = {"REQUEST_ONHOLD": ON_HOLD, "REQUEST_CANCELLED": CANCELED, "REQUEST_CANCELED": CANCELED}
CODE_OF_CARRIER = re.compile(r"\b(?:INPUT_INVALID|REQUEST_FAILED)\b", re.IGNORECASE)
"""A code of the carrier: some programs put it into the text of the fault."""

_SUCCESS_WITH_FAULT = "status Success with a fault"
_NO_STATUS = "no status"
_SHOWN = 50
"""Characters of an unknown status that are shown."""


def verdict_of(status: str, error_code: str, error_message: str) -> str:
    """Return SUCCESS, FAILURE, or what to show of a message that decides nothing."""
    if CODE_OF_CARRIER.search(f"{error_code} {error_message}"):
        return FAILURE
    if names_error(error_code) or names_error(error_message):
        return _SUCCESS_WITH_FAULT if _DECIDING.get(status.lower()) == SUCCESS else FAILURE
    letters = re.sub(r"[\s_-]", "", status).lower()
    code_class = strip_service_name(f"{status.upper()}.").partition(".")[0]
    known = _DECIDING.get(status.lower()) or _BY_LETTERS.get(letters) or _BY_CLASS.get(code_class)
    if known is not None:
        return known
    return f"unknown status '{status[:_SHOWN]}'" if status else _NO_STATUS


def with_verdicts(messages: pl.DataFrame) -> pl.DataFrame:
    """Add the column `verdict` to messages, from `status`, `error_code` and `error_message`.

    Millions of failures may each have a text of their own, so those with a code of the carrier are judged by
    an expression, as `verdict_of` does.
    """
    fault = pl.concat_str("error_code", "error_message", separator=" ")
    is_coded = fault.str.contains(f"(?i){CODE_OF_CARRIER.pattern}")
    judged_by = ["status", "error_code", "error_message"]
    distinct = messages.filter(~is_coded).select(judged_by).unique()
    verdicts = pl.Series("verdict", [verdict_of(*row) for row in distinct.iter_rows()], pl.String)
    judged = messages.join(distinct.with_columns(verdicts), on=judged_by, how="left", maintain_order="left")
    return judged.with_columns(pl.when(is_coded).then(pl.lit(FAILURE)).otherwise("verdict").alias("verdict"))

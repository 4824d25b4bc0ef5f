"""What a message reports of the devices that it names.

A fault (a `faultResponse` with a code or a text) is a failure, whatever the status. Without a fault, only the
statuses Success and Failed decide anything. The carrier documents no other status, so any other one settles
nothing, and is shown as it came.
"""

import re

import polars as pl

from batchlic.carrier.answers import Blame
from batchlic.carrier.messages import strip_service_name
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
_NO_STATUS = "no status"
_SHOWN = 50
"""Characters of an unknown status that are shown."""


def verdict_of(status: str, *, has_fault: bool) -> str:
    """Return SUCCESS, FAILURE, or what to show of a message that decides nothing."""
    if has_fault:
        return FAILURE
    letters = re.sub(r"[\s_-]", "", status).lower()
    code_class = strip_service_name(f"{status.upper()}.").partition(".")[0]
    known = _DECIDING.get(status.lower()) or _BY_LETTERS.get(letters) or _BY_CLASS.get(code_class)
    if known is not None:
        return known
    return f"unknown status '{status[:_SHOWN]}'" if status else _NO_STATUS


def with_verdicts(messages: pl.DataFrame) -> pl.DataFrame:
    """Add the column `verdict` to messages, from `status`, `error_code` and `error_message`."""
    has_fault = (pl.col("error_code") != "") | (pl.col("error_message") != "")
    verdicts = {status: verdict_of(status, has_fault=False) for status in messages["status"].unique()}
    of_status = pl.col("status").replace_strict(verdicts, return_dtype=pl.String)
    return messages.with_columns(
        pl.when(has_fault).then(pl.lit(FAILURE)).otherwise(of_status).alias("verdict")
    )

"""What a refused question about an account proves, such as one for license counts.

Only the service's or the gateway's own refusals count. A page of a proxy or a 404 without a code is an outage
(batchlic.carrier.rules), so it never gets here.
"""

import re
from enum import Enum

from batchlic.carrier.answers import Answer
from batchlic.carrier.rules import ACCOUNT, PERMISSION


class RefusalReason(Enum):
    """Why a question was refused."""

    UNKNOWN = "unknown"
    ACCOUNT = "account"
    """The carrier does not know the account."""
    PERMISSION = "permission"
    """The login is right, but it lacks a permission."""


_ACCOUNT_CODES = frozenset(map(str.lower, ACCOUNT))
_ACCOUNT_CODE = re.compile(r"(INPUT_INVALID|REQUEST_FAILED)\.Account", re.IGNORECASE)
_UNKNOWN = r"not\s+(be\s+)?(found|defined|valid|known|exist)|unknown|invalid|does\s*n[o']t\s+exist|no\s+such"
_ACCOUNT_WORDS = re.compile(
    rf"\baccounts?\b[^.;|]{{0,80}}\b({_UNKNOWN})\b|\b({_UNKNOWN}|(there\s+is|have|has)\s+no)\s+accounts?\b",
    re.IGNORECASE,
)
_PERMISSION_WORDS = re.compile(
    r"\bnot\s+(authori[sz]ed|permitted|allowed|entitled|subscribed|enabled)\b|\bunauthori[sz]ed\b|"
    r"\bpermissions?\b|\bprivileges?\b|\bforbidden\b|\baccess\s+denied\b|\bNotAuthorized\b|NotPermitted",
    re.IGNORECASE,
)


def reason_of_refusal(answer: Answer) -> RefusalReason:
    """Why the carrier refused a question, as its code, its words and its status say."""
    code, text = answer.error_code or "", answer.error_message or ""
    if code.lower() in _ACCOUNT_CODES or _ACCOUNT_CODE.match(code):
        return RefusalReason.ACCOUNT
    if code.lower() in PERMISSION or answer.http_status == 403:
        return RefusalReason.PERMISSION
    if _ACCOUNT_WORDS.search(text):
        return RefusalReason.ACCOUNT
    if _PERMISSION_WORDS.search(f"{code} {text}"):
        return RefusalReason.PERMISSION
    return RefusalReason.UNKNOWN

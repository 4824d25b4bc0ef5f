"""The callbacks in a store that settle nothing by themselves, whatever run they belong to."""

import msgspec

from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.callbacks.verdicts import FAILURE, SUCCESS, verdict_of
from batchlic.figures import time_in_files


class UnjudgedCallback(msgspec.Struct, frozen=True, kw_only=True):
    """A stored callback that settles nothing; `received_at` is ISO 8601 in UTC, `raw` the body as it came."""

    received_at: str
    request_id: str
    account_name: str
    reason: str
    error_code: str
    error_message: str
    raw: str


def unjudged_callbacks(store: Store) -> list[UnjudgedCallback]:
    """The callbacks that name no IMEI and no ICCID, or report neither success nor failure."""
    return [
        UnjudgedCallback(
            received_at=time_in_files(message.received_at),
            request_id=message.request_id,
            account_name=message.account_name,
            reason=_reason(message),
            error_code=message.error_code,
            error_message=message.error_message,
            raw=message.raw,
        )
        for message in store.raw_messages()
    ]


def _reason(message: StoredMessage) -> str:
    verdict = verdict_of(message.status, message.error_code, message.error_message)
    what = {FAILURE: "failure", SUCCESS: "success"}.get(verdict, verdict)
    return what if message.imei or message.iccid else f"names no IMEI and no ICCID, {what}"

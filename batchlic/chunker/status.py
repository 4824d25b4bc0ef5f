"""The statuses of a planned device. No other module defines names for them."""

from enum import StrEnum


class DeviceStatus(StrEnum):
    """The status of a planned device, as in the column `status` of results.parquet."""

    PENDING = "pending"
    """Not executed, and still to be sent."""
    ACCEPTED = "accepted"
    """The carrier accepted the request. It is never sent again."""
    CONFIRMED = "confirmed"
    """A callback reported that the request was executed."""
    FAILED = "failed"
    """The carrier refused the request for good. It is never sent again."""
    IN_DOUBT = "in_doubt"
    """The request may have been executed: its answer was lost (promise D)."""
    SKIPPED = "skipped"
    """No request was sent: according to the ledger, the device already has the license."""

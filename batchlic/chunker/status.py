"""What became of a planned device: the one vocabulary for it."""

from enum import StrEnum


class DeviceStatus(StrEnum):
    """How a planned device stands: the `status` column of results.parquet."""

    PENDING = "pending"
    """Not executed, and still to be sent."""
    ACCEPTED = "accepted"
    """The carrier took the request. It is never sent again."""
    CONFIRMED = "confirmed"
    """A callback says that the request was executed."""
    FAILED = "failed"
    """The carrier refused it for good. It is never sent again."""
    IN_DOUBT = "in_doubt"
    """It may have been executed: the answer was lost (promise D)."""
    SKIPPED = "skipped"
    """Nothing to send: the ledger knows that the device already is as requested."""

"""Notices when batch after batch is refused alike, so that a run stops instead of burning its plan."""

from collections import Counter

from batchlic.carrier.answers import Answer, Outcome
from batchlic.chunker import Batch
from batchlic.errors import StoppedEarly

ALIKE = 5
"""Batches of one account and SKU, refused to the last device with one code, before anything was accepted."""


class RefusalWatch:
    """Learns what became of each batch; raises StoppedEarly when account or SKU seem to be wrong."""

    def __init__(self) -> None:
        self._has_accepted: set[tuple[str, str]] = set()
        self._refused: Counter[tuple[str, str, str | None]] = Counter()

    def accepted(self, batch: Batch) -> None:
        """A part of this batch was accepted: its account and SKU are fine."""
        self._has_accepted.add((batch.account_name, batch.sku_number))

    def refused(self, batch: Batch, answer: Answer) -> None:
        """No device of this batch was accepted; `answer` is the refusal of the whole of it."""
        group = (batch.account_name, batch.sku_number)
        if group in self._has_accepted or answer.outcome is not Outcome.REFUSED:
            return
        self._refused[*group, answer.error_code] += 1
        if self._refused[*group, answer.error_code] >= ALIKE:
            raise StoppedEarly(
                f"the first {ALIKE} batches for account {batch.account_name}, SKU {batch.sku_number} were "
                f"all refused alike: {answer.error_code or answer.http_status} ({answer.error_message}). "
                "Check account and SKU, then resume the run"
            )

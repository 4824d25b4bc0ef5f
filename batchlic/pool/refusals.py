"""Stops a run when batch after batch is refused alike, before its whole plan has failed."""

from collections import Counter
from typing import TypeAlias

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, Step
from batchlic.errors import StoppedEarly
from batchlic.pool.remaining import Position

ALIKE = 5
"""So many batches of one account and SKU with one error code, all their devices refused, stop the run."""
MANY_DEVICES = 100
"""They must hold so many devices if the code does not blame the account: a few devices may be bad."""

_Group: TypeAlias = tuple[str, str, Action | None]


class RefusedTooMuch(StoppedEarly):
    """Refusals stop the run."""


class RefusalWatch:
    """Counts refused batches by account and SKU; raises RefusedTooMuch if one of those seems to be wrong.

    A sync counts its two actions apart.
    """

    def __init__(self) -> None:
        self._has_accepted: set[_Group] = set()
        self._batches: Counter[tuple[_Group, str | None]] = Counter()
        self._devices: Counter[tuple[_Group, str | None]] = Counter()

    def accepted(self, batch: Batch) -> None:
        """A part of this batch was accepted, now or in an earlier session: its account and SKU are right."""
        self._has_accepted.add(_group(batch))

    def refused(self, batch: Batch, answer: Answer, position: Position = Position.FIRST) -> None:
        """No device of this batch was accepted; `answer` is the last refusal."""
        if (
            _group(batch) in self._has_accepted
            or answer.outcome is not Outcome.REFUSED
            or position is Position.UNDO
        ):
            return
        alike = _group(batch), answer.error_code
        self._batches[alike] += 1
        self._devices[alike] += len(batch.offsets)
        are_enough = answer.blame is Blame.ACCOUNT or self._devices[alike] >= MANY_DEVICES
        if self._batches[alike] >= ALIKE and are_enough:
            raise RefusedTooMuch(
                f"the first {self._batches[alike]} batches for account {batch.account_name}, SKU "
                f"{batch.sku_number} were all refused with the same error: "
                f"{answer.summary}. Check account and SKU, then resume the run{advice(batch, position)}"
            )


def _group(batch: Batch) -> _Group:
    return batch.account_name, batch.sku_number, batch.planned_action


def advice(batch: Batch, position: Position) -> str:
    """Advice for a migration that is refused a new license while the device has the old one."""
    if batch.step is not Step.ASSIGN or position is not Position.FIRST:
        return ""
    return "; if a device may have one SKU only, migrate the rest with --order unassign-first"

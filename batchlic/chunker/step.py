"""The steps of a migration. A batch is sent once for each step that it needs."""

from dataclasses import dataclass
from enum import StrEnum

from batchlic.carrier.catalog import Action


class Step(StrEnum):
    """What one request of a migration does; the `step` column of journal, audit and results."""

    UNASSIGN = "unassign"
    """Takes the old license."""
    ASSIGN = "assign"
    """Gives the new license."""
    RESTORE = "restore"
    """Undoes the first of these two steps, because the second one failed."""
    CLEAR = "clear"
    """Takes back the new license that an assign in doubt may have given, before the assign is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """What a migration asks the carrier to do with a batch.

    `is_repeatable`: whether the same request may be sent again after a lost answer, if the SKU allows it.
    `clearings`: how often the devices were cleared before. After a clearing, a request is a new one.
    """

    step: Step
    action: Action
    is_repeatable: bool = True
    clearings: int = 0

"""The steps of a migration: each batch is sent once for each of them that it needs."""

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
    """Undoes the first of these two, because the second one failed."""
    CLEAR = "clear"
    """Takes a new license that an assign in doubt may have given, before the assign is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """What a migration asks the carrier to do with a batch.

    `is_repeatable` says whether the request may be sent again unchanged after a lost answer, if its SKU
    allows that. `clearings` counts how often the devices were cleared before: what is sent after a clearing
    is a new request.
    """

    step: Step
    action: Action
    is_repeatable: bool = True
    clearings: int = 0

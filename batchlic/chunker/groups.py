"""The groups of a plan: one for each account and SKU; in a sync, also one for each action."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from batchlic.carrier.catalog import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGroup:
    """The part of a plan under one account and one SKU, in devices and batches.

    `action` is what a sync does with the devices; None in other runs, whose action applies.
    """

    account_name: str
    sku_number: str
    devices: int
    batches: int
    action: Action | None = None


Fit: TypeAlias = Callable[[Sequence[PlanGroup]], Sequence[int]]
"""Returns how many devices of each group to plan, from 0 to all of them."""

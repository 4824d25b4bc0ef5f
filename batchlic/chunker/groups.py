"""The groups of a plan: one for each account and SKU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGroup:
    """The part of a plan under one account and one SKU, in devices and batches."""

    account_name: str
    sku_number: str
    devices: int
    batches: int


Fit: TypeAlias = Callable[[Sequence[PlanGroup]], Sequence[int]]
"""Returns how many devices of each group to plan, from 0 to all of them."""

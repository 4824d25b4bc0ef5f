"""Makes a plan from device rows, and batches from a plan: contiguous row ranges of plan.parquet."""

from batchlic.chunker.accounts import AccountBatches, read_accounts
from batchlic.chunker.batch import (
    Batch,
    batch_sizes,
    format_ranges,
    parse_ranges,
    phase_ranges,
    read_batches,
    read_excluded,
    read_whole_batches,
)
from batchlic.chunker.groups import Fit, PlanGroup
from batchlic.chunker.plan import Check, Plan, write_plan
from batchlic.chunker.status import DeviceStatus
from batchlic.chunker.step import Step, StepRequest

__all__ = [
    "AccountBatches",
    "Batch",
    "Check",
    "DeviceStatus",
    "Fit",
    "Plan",
    "PlanGroup",
    "Step",
    "StepRequest",
    "batch_sizes",
    "format_ranges",
    "parse_ranges",
    "phase_ranges",
    "read_accounts",
    "read_batches",
    "read_excluded",
    "read_whole_batches",
    "write_plan",
]
